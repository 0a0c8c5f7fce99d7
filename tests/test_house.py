r"""The house as a whole: settings that must agree, generated parts in step, notebooks executed and compared."""

import copy
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jaxtyping
import nbformat
import pytest
import shapes
import torch
import yaml
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from coursekit.authoring import generated
from coursekit.checks import ia3_diagnose
from coursekit.evaluation import scores

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: Names on conda-forge that differ from those on PyPI.
CONDA = {"torch": "pytorch", "huggingface-hub": "huggingface_hub"}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def split(requirement: str) -> tuple[str, str]:
    name, constraint = re.fullmatch(r"([\w.-]+?)\s*((?:[<>=!~].*)?)", requirement).groups()
    return name, constraint


def test_conda_users_get_the_same_constraints():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(e["pip"] for e in entries if isinstance(e, dict))
    assert "--editable ." in pip
    given = dict(split(e) for e in entries if isinstance(e, str)) | dict(split(e) for e in pip if not e.startswith("-"))
    extra = PROJECT["optional-dependencies"]
    required = dict(split(r) for r in PROJECT["dependencies"] + extra["notebooks"] + extra["test"])
    wanted = {CONDA.get(name, name): constraint for name, constraint in required.items()}
    wanted |= {"python": PROJECT["requires-python"], "pip": ""}
    assert given == wanted


def test_no_two_test_files_have_one_name():
    r"""pytest imports them by it, and takes only one: a run of all tests would end in an error."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_github_draws_the_formulas_of_every_markdown_page():
    r"""It refuses `\operatorname` and a few others in Markdown, and shows a red line instead (github/markup#1688)."""
    pages = [*ROOT.glob("*.md"), *(p for d in ("benchmarks", "data", "docs") for p in (ROOT / d).rglob("*.md"))]
    refused = re.compile(r"\\(operatorname|mbox|phantom|newcommand|def)\b")
    ours = [p for p in pages if not {"node_modules", "library"} & set(p.parts)]  # the site makes docs/library
    found = [f"{p.name}: {hit[0]}" for p in ours for hit in refused.finditer(p.read_text(encoding="utf-8"))]
    assert ours and not found


def test_a_shape_that_is_not_as_promised_ends_a_test():
    @jaxtyping.jaxtyped(typechecker=shapes.check)
    def turned(x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        return x.T

    assert turned(torch.ones(2, 2)).shape == (2, 2)
    lean, good = torch.ones(3), torch.ones(3).bool()
    for wrong in (
        lambda: turned(torch.ones(2, 3)),
        lambda: scores.pairs_in_order(lean, good[:2]),
        lambda: scores.pairs_in_order(lean, good.int()),
        lambda: ia3_diagnose.copied({"l": 1}),  # an alias speaks of tensors
    ):
        with pytest.raises(TypeCheckError):
            wrong()


def test_the_distribution_does_not_take_the_name_of_the_unrelated_package():
    assert PROJECT["name"] not in ("coursekit", "course-kit", "course_kit")
    from coursekit.notebook.cells import DISTRIBUTION

    assert PROJECT["name"] == DISTRIBUTION
    text = "".join(p.read_text() for p in [ROOT / "README.md", *NOTEBOOKS, *(ROOT / ".github").rglob("*.yml")])
    assert not re.search(r"pip install (-\S+ )*coursekit\b(?!-)", text)


def test_who_only_imports_the_package_need_not_install_jupyterlab():
    r"""Colab has a front end of its own; `make` and conda install the extra."""
    tools = {"jupyterlab", "nbconvert", "papermill"}
    assert {split(r)[0] for r in PROJECT["optional-dependencies"]["notebooks"]} == tools
    assert not tools & {split(r)[0] for r in PROJECT["dependencies"]}
    assert "--editable '.[notebooks,test]'" in (ROOT / "Makefile").read_text()
    assert "pip install -e '.[notebooks]'" in (ROOT / "README.md").read_text()
    code = f"import sys; sys.modules |= dict.fromkeys({tools}); import coursekit.notebook.cells"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_generated_cells_and_badges_are_in_step():
    stale = generated.update(ROOT, write=False)
    assert not stale, f"run `coursekit generate`: {[p.name for p in stale]} are out of step with pyproject.toml"


def test_importing_the_package_is_light():
    reading = "from coursekit.experiments import results; assert 'torch' not in sys.modules"
    for code in ("import coursekit; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)", reading):
        subprocess.run([sys.executable, "-c", f"import sys; {code}"], check=True, cwd=ROOT)


def test_every_submodule_can_be_reached_from_the_package():
    import coursekit

    for name in ("errors", "models", "batch", "notebook"):
        assert name in dir(coursekit) and getattr(coursekit, name).__name__ == f"coursekit.{name}"
    with pytest.raises(AttributeError):
        _ = coursekit.nothing


def code_cells(path: Path) -> list:
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == "code" and c.source.strip()]


def tagged(path: Path, tag: str) -> list:
    return [c for c in nbformat.read(path, 4).cells if tag in c.metadata.get("tags", [])]


@each_notebook
def test_a_notebook_is_committed_as_it_ran_from_top_to_bottom(path):
    counts = [c.execution_count for c in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "restart the kernel, run all cells, save"
    outputs = [o for c in code_cells(path) for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    noise = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert not [t for t in noise if "Traceback" in t or "Warning" in t], "warnings are no reading matter"


@each_notebook
def test_a_notebook_compares_enough_of_what_it_computes(path):
    cells = code_cells(path)
    compared = [c for c in cells if "nbval-ignore-output" not in c.metadata.get("tags", [])]
    telling = [c for c in compared if c.outputs]
    assert len(compared) / len(cells) >= 0.4, f"{len(compared)} of {len(cells)} cells are compared"
    assert len(telling) >= 5, "cells without an output compare nothing"
    assert not [c for c in cells if {"nbval-skip", "raises-exception"} & set(c.metadata.get("tags", []))]


@each_notebook
def test_a_notebook_has_the_parts_that_the_tools_look_for(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for tag in ("setup", "badge", "parameters", "imports"):
        assert len(tagged(path, tag)) == 1, f"one cell tagged {tag}"
    for tag in ("setup", "imports"):
        (cell,) = tagged(path, tag)
        assert cell.metadata.jupyter.source_hidden and cell.metadata.cellView == "form"
        assert cell.source.startswith("#@title "), "what Colab shows of a folded cell"
    from coursekit.notebook.parameters import defaults

    assert defaults(path), "the parameters cell assigns the parameters"


@each_notebook
def test_a_profile_fits_the_notebook(path):
    from coursekit.notebook.parameters import check, defaults, read_profile

    for profile in ("smoke", "gpu"):
        file, values = read_profile(profile, path.parent)
        check(defaults(path), values, file.name)


def test_every_parameter_of_a_profile_is_known_to_some_notebook():
    from coursekit.notebook.parameters import defaults, read_profile

    known = set().union(*(defaults(path) for path in NOTEBOOKS))
    for profile in ("smoke", "gpu"):
        _, values = read_profile(profile, ROOT / "notebooks")
        assert set(values) <= known or not NOTEBOOKS, f"unused in {profile}: {set(values) - known}"


def test_an_exercise_is_called_after_the_file_of_its_check():
    from coursekit.checks import every_kind

    files = tuple(p.stem.replace("_", "-") + "-" for p in (ROOT / "coursekit" / "checks").glob("*.py"))
    assert not [id for id in every_kind() if not id.startswith(files)]


PAGES = [
    *ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "data").rglob("*.md")),
]  # fmt: skip
#: Files of the repository, as pages may call them.
FILES = [
    "/" + path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("docs/*.py"), *ROOT.glob("notebooks/*.ipynb")]
    + [path for folder in ("benchmarks", "coursekit", "tests") for path in (ROOT / folder).rglob("*.py")]
]


def test_the_readme_lists_every_notebook_and_its_commands_exist():
    text = (ROOT / "README.md").read_text()
    listed = re.findall(r"\]\(notebooks/([\w]+\.ipynb)\)", text)
    assert not NOTEBOOKS or sorted(listed) == [p.name for p in NOTEBOOKS]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {t for t in re.findall(r"^make (\w+)$", text, re.MULTILINE)} == {"course", "lab", "test"} <= set(targets)


def slugs(page: Path) -> set[str]:
    r"""What links call the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_a_page_names_is_there(page):
    r"""Files that it links to, tells people to run or has in code marks, headings, and commands of coursekit."""
    from coursekit.cli import app

    text = page.read_text()
    for path in re.findall(r"python ([\w/]+\.py)", text):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"`([\w/]+\.(?:py|ipynb))`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        made = "gain" in path or path.startswith(("handout/", "solved."))
        assert made or any(file.endswith(f"/{path}") for file in FILES), path
    for link in re.findall(r"\]\((?!https?:)([^)]*)\)", text):
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and (not heading or heading in slugs(target)), link
    known = {c.name or c.callback.__name__ for c in app.registered_commands} | {g.name for g in app.registered_groups}
    assert set(re.findall(r"(?:^|`|bin/)coursekit (\w+)", text, re.MULTILINE)) <= known


def test_lessons_and_topics_of_the_evidence_are_what_findings_read():
    r"""The table of benchmarks/README.md."""
    rows = re.findall(r"^\| `(\w+)`[^|]*\| ([^|]+) \|$", (ROOT / "benchmarks" / "README.md").read_text(), re.M)
    topics = {p.stem for p in (ROOT / "benchmarks" / "topics").glob("[a-z]*.py")}
    read = {topic: [] for topic in topics}
    for path in sorted((ROOT / "tests" / "findings").glob("test_[0-9]*.py")):
        calls = re.findall(r"\bread\(([^)]*)\)", path.read_text())
        for topic in topics & set(re.findall(r'"(\w+)"', " ".join(calls))):
            read[topic].append(path.stem.split("_")[1])
    read["shortcuts"] = ["`training.fit`"]
    for topic in (
        "pooling",
        "retention",
        "retention_decoder",
    ):  # test_evidence.py reads them, for the evidence's own page
        read[topic].append("[what fell and what stood](../data/evidence/README.md)")
    assert dict(rows) == {topic: ", ".join(lessons) for topic, lessons in read.items()}


def test_teachers_read_the_hours_and_points_of_the_table_of_lessons():
    rows = re.findall(r"^\| \[(\d\d)(b?)_.*\| (\d+) \+ (\d+) \|.*\| (\d+) \|$", (ROOT / "README.md").read_text(), re.M)
    assert len(rows) == len(NOTEBOOKS)
    kinds = {"appendix": [r for r in rows if r[1]], "beyond": [r for r in rows if r[0] > "10"]}
    kinds["lecture"] = [r for r in rows if not r[1] and r[0] <= "10"]
    text = (ROOT / "docs" / "teaching.md").read_text()
    starts = {"lecture": "00 to 10, follow ", "beyond": "11 and 12 go ", "appendix": "the eight appendices"}
    for kind, start in starts.items():
        hours = sum(int(r[2]) + int(r[3]) for r in kinds[kind]) / 60
        points = sum(int(r[4]) for r in kinds[kind])
        assert re.search(f"{start}[^();]*\\({hours:.0f} hours, {points} points\\)", text), kind


def python_in(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.mark.slow
def test_the_lines_that_show_the_library_run(tmp_path, monkeypatch):
    r"""As they stand, but for fewer steps; and they do what is said beside them."""
    import torch

    monkeypatch.chdir(tmp_path)
    code, own, resumed = (one for page in ("README.md", "docs/as_a_library.md") for one in python_in(ROOT / page))
    lines = [line for line in code.splitlines() if line.strip() and "import" not in line]
    assert "steps=60" in code and len(lines) <= 10
    exec(code.replace("steps=60", "steps=3"), space := {})
    import peft

    from coursekit.models import load_encoder
    from coursekit.tasks import load_task

    base, tokenizer = load_encoder("minilm")
    one = tokenizer(list(load_task("film").data["test"]["text"][:4]), padding=True, return_tensors="pt")
    theirs = peft.PeftModel.from_pretrained(base, "adapter")
    with torch.no_grad():
        answers = [m.eval()(**one.to(m.device)).logits.cpu() for m in (space["model"], space["again"], theirs)]
    for other in answers[1:]:
        torch.testing.assert_close(other, answers[0], atol=1e-4, rtol=1e-4)
    space["model"] = space["again"]
    exec(own.replace("steps=300", "steps=2"), space)  # data of one's own

    # Stopped and resumed: the fourth step of five fails, and the checkpoint is of the second.
    resumed = resumed.replace("steps=300", "steps=5").replace("checkpoint_every=50", "checkpoint_every=2")
    straight, stopped, fresh = (copy.deepcopy(space["model"]) for _ in range(3))

    def ran(model, code=resumed):
        exec(code, found := space | {"model": model})
        return found["history"].loss, [p.tolist() for p in model.parameters() if p.requires_grad]

    def disconnect(*_):
        if next(calls) == 4:
            raise ConnectionError

    calls = iter(range(1, 9))
    stopped.register_forward_pre_hook(disconnect)
    with pytest.raises(ConnectionError):
        ran(stopped)
    assert [path.name for path in Path("run").iterdir()] == ["step-000002"]
    assert ran(fresh) == ran(straight, resumed.replace('checkpoint="run"', "checkpoint=None"))


def test_ci_runs_what_the_readme_tells_people_to_run():
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    tools = [line for line in commands[:-1] if re.search("bubblewrap|unprivileged_userns|[Cc]hromium|npm", line)]
    assert commands == [*tools, "make test"] and len(tools) == 7
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    for name in ("ci", "gpu"):
        workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
        (job,) = workflow["jobs"].values()
        assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    low, high = (v.split(".")[1] for v in re.findall(r"3\.\d+", PROJECT["requires-python"]))
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(int(low), int(high))]


def test_a_dev_container_is_made_as_the_readme_says():
    made = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    python, interpreter = made["image"].removeprefix("python:"), made["customizations"]["vscode"]["settings"]
    readme, makefile = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "Makefile"))
    assert f"You need Python 3.11, {python} or 3.13" in readme
    _, box, ready, fetch = made["postCreateCommand"].split(" && ")
    assert box == "apt-get install -y bubblewrap" and "`.devcontainer/`" in readme and "`coursekit fetch`" in readme
    (target,) = re.findall(r"^READY := \$\(VENV\)(.*)", makefile, re.MULTILINE)
    (venv,) = re.findall(r"^VENV := (.*)", makefile, re.MULTILINE)
    assert (ready, fetch) == (f"make {venv}{target}", f"{venv}/bin/coursekit fetch")
    assert interpreter == {"python.defaultInterpreterPath": f"{venv}/bin/python"}


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not on the PATH")
def test_the_workflows_pass_actionlint():
    done = subprocess.run(["actionlint"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_says_which_python_it_wants(tmp_path):
    r"""With a PATH that holds no Python that would do."""
    for tool in ("make", "sh", "echo", "true", "touch"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").write_text("")
    done = subprocess.run(["make", "course"], cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 2 and "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.slow
def test_a_wheel_carries_the_data_and_works_without_a_checkout(tmp_path):
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    code = "from coursekit.models.archives import DATA, archives; print(DATA, len(archives()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(extract(wheel, tmp_path))},
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.split() == [str(tmp_path / "site" / "coursekit" / "data"), "3"], done.stderr


def extract(wheel: Path, folder: Path) -> Path:
    import zipfile

    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"

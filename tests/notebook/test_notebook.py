r"""What notebooks get from the package: sources on display, checked parameters, the generated set-up cell.

The set-up cell runs in bare interpreters (`python -S`: no site-packages), so that nothing but what a test
lays out can be found.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from coursekit.authoring import colab
from coursekit.errors import CourseError
from coursekit.notebook import cells as notebook
from coursekit.notebook.cells import badge, expect_types, setup_cell, show

ADDRESS = "https://github.com/owner/name"


def execute(cell: str, cwd: Path, *, path: list[Path] = (), before: str = "") -> subprocess.CompletedProcess:
    r"""Runs the cell in a bare interpreter, then says where coursekit is found."""
    after = "\nfrom importlib import util as _u\nprint('FOUND', _u.find_spec('coursekit').origin)"
    add = f"import sys; sys.path += {[str(p) for p in path]}\n"
    command = [sys.executable, "-S", "-E", "-c", add + before + "\n" + cell + after]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def package(folder: Path, *, ours: bool = True) -> Path:
    r"""A folder with a package coursekit: like ours, or the unrelated one that refuses to be imported."""
    (folder / "coursekit").mkdir(parents=True)
    (folder / "coursekit" / "__init__.py").write_text("" if ours else "raise RuntimeError('a stranger')")
    if ours:
        (folder / "coursekit" / "methods").mkdir()
        (folder / "coursekit" / "methods" / "__init__.py").write_text("")
    return folder


def distribution(folder: Path, **versions: str) -> Path:
    r"""Metadata of installed distributions, as pip leaves it."""
    for name, version in versions.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


#: Stands in for pip: notes its arguments and the constraints, then lays down what pip would install.
FAKE_PIP = """
import json, subprocess
def run(command):
    keep = open(command[command.index("--constraint") + 1]).read()
    json.dump([command, keep], open({log!r}, "w"))
    import pathlib
    methods = pathlib.Path({site!r}, "coursekit", "methods")
    methods.mkdir(parents=True, exist_ok=True)
    (methods.parent / "__init__.py").write_text("")
    return subprocess.CompletedProcess(command, {status})
subprocess.run = run
"""


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_an_installed_package_is_used_as_it_is(tmp_path, address):
    site = package(tmp_path / "site")
    done = execute(setup_cell(address), tmp_path, path=[site])
    assert done.stdout == f"FOUND {site / 'coursekit' / '__init__.py'}\n", done.stderr


@pytest.mark.parametrize("below", [".", "notebooks", "notebooks/deeper"])
@pytest.mark.parametrize("stranger", [False, True])
def test_a_checkout_above_is_found_also_past_the_unrelated_package(tmp_path, below, stranger):
    checkout = package(tmp_path / "checkout")
    (checkout / below).mkdir(parents=True, exist_ok=True)
    site = [package(tmp_path / "site", ours=False)] if stranger else []
    done = execute(setup_cell(ADDRESS), checkout / below, path=site)
    assert done.stdout == f"FOUND {checkout / 'coursekit' / '__init__.py'}\n", done.stderr


@pytest.mark.parametrize("stranger", [False, True])
def test_a_fresh_colab_installs_from_the_address_and_keeps_its_own_builds(tmp_path, stranger):
    site = tmp_path / "site"
    site.mkdir()
    if stranger:
        package(site, ours=False)
    distribution(site, torch="2.6.0+cu124", numpy="2.0.2", torchvision="0.21.0+cu124", pandas="2.2.2")
    distribution(site, pyzmq="26.2.1", prompt_toolkit="3.0.50", huggingface_hub="1.0.0")
    (tmp_path / "content").mkdir()
    log = tmp_path / "log"
    pip = FAKE_PIP.format(log=str(log), site=str(site), status=0)
    done = execute(setup_cell(ADDRESS), tmp_path / "content", path=[site], before=pip)
    assert done.stdout.endswith(f"FOUND {site / 'coursekit' / '__init__.py'}\n"), done.stderr
    command, keep = json.loads(log.read_text())
    assert command[1:4] == ["-m", "pip", "install"]
    assert command[-1] == f"git+{ADDRESS}@main"
    assert "coursekit" not in command, "never by name from an index"
    assert sorted(keep.split()) == [
        "huggingface-hub<2", "numpy==2.0.2", "prompt-toolkit==3.0.50", "pyzmq==26.2.1", "torch==2.6.0+cu124",
        "torchvision==0.21.0+cu124",
    ]  # fmt: skip
    assert list((tmp_path / "content").iterdir()) == [], "no files left where the student works"


@pytest.mark.parametrize("imported", [False, True])
def test_a_transformers_that_was_there_before_wants_a_restart(tmp_path, imported):
    (tmp_path / "site").mkdir()
    pip = FAKE_PIP.format(log=str(tmp_path / "log"), site=str(tmp_path / "site"), status=0)
    before = (
        pip
        + "\nimport sys, types\n"
        + 'sys.modules["transformers"] = types.ModuleType("transformers")' * imported
    )
    done = execute(setup_cell(ADDRESS), tmp_path, path=[tmp_path / "site"], before=before)
    said = [
        line
        for line in done.stdout.splitlines()
        if line.startswith("transformers was imported before this cell")
    ]
    assert len(said) == imported and "FOUND" in done.stdout, done.stderr


def test_without_a_network_it_says_so(tmp_path):
    (tmp_path / "site").mkdir()
    pip = FAKE_PIP.format(log=str(tmp_path / "log"), site=str(tmp_path / "site"), status=1)
    done = execute(setup_cell(ADDRESS), tmp_path, path=[tmp_path / "site"], before=pip)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("RuntimeError: no network? pip") and ADDRESS in last
    assert "CalledProcessError" not in done.stderr


@pytest.mark.parametrize("stranger", [False, True])
def test_without_an_address_it_says_what_to_do(tmp_path, stranger):
    site = [package(tmp_path / "site", ours=False)] if stranger else []
    done = execute(setup_cell(""), tmp_path, path=site)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("RuntimeError: coursekit is not installed here")
    assert "pip install -e ." in last and "coursekit colab" in last


def test_notices_of_other_libraries_are_silenced_before_they_come(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", f"{setup_cell('')}\nimport tqdm.auto"],
        cwd=Path(__file__).parent,
        capture_output=True,
    )
    assert done.returncode == 0 and b"IProgress" not in done.stderr


def test_the_cell_is_short_and_passes_the_house_style():
    cell = setup_cell(ADDRESS)
    assert len(cell.splitlines()) <= 45 and all(len(line) <= 110 for line in cell.splitlines())
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "E,F,I,UP,B",
        "--ignore",
        "E402",  # as pyproject.toml has it for notebooks: imports stand where they are first needed
        "--line-length",
        "110",
        "-",
    ]
    done = subprocess.run(command, input=cell + "\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_badges_lead_to_the_notebook():
    found = badge(ADDRESS, "trunk", "notebooks/06_lora.ipynb")
    assert "(https://colab.research.google.com/github/owner/name/blob/trunk/notebooks/06_lora.ipynb)" in found
    assert badge("", "main", "x").startswith("<!--") and badge(
        "https://example.org/x", "main", "x"
    ).startswith("<!--")


@pytest.fixture
def checkout(tmp_path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[tool.coursekit]\nrepository = ""\nbranch = "main"\n')
    (tmp_path / "README.md").write_text("# Title\n\n<!-- badges -->\nold\n<!-- /badges -->\n\nrest\n")
    (tmp_path / "notebooks").mkdir()
    cells = [
        nbformat.v4.new_markdown_cell("badge", metadata={"tags": ["badge"]}),
        nbformat.v4.new_code_cell("setup", metadata={"tags": ["setup"]}),
        nbformat.v4.new_code_cell(
            "1", outputs=[nbformat.v4.new_output("stream", text="1")], execution_count=1
        ),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "01_a.ipynb")
    return tmp_path


def test_one_command_brings_everything_in_step(checkout):
    path = checkout / "notebooks" / "01_a.ipynb"
    before = nbformat.read(path, 4)
    both = [path, checkout / "README.md"]
    assert colab.update(checkout, write=False) == both and nbformat.read(path, 4) == before
    assert colab.update(checkout) == both
    assert colab.update(checkout) == [] == colab.update(checkout, write=False)
    setup, other = nbformat.read(path, 4).cells[1:3]
    assert setup.source == setup_cell("") and setup.metadata.jupyter.source_hidden
    assert "jupyter" not in other.metadata
    assert "no public address yet" in both[1].read_text()
    settings = checkout / "pyproject.toml"
    settings.write_text(settings.read_text().replace('""', f'"{ADDRESS}.git"'))
    assert colab.update(checkout) == both
    after = nbformat.read(path, 4)
    assert (
        f'"{ADDRESS}", "main"' in after.cells[1].source
        and "owner/name/blob/main/notebooks/01_a" in after.cells[0].source
    )
    assert after.cells[2] == before.cells[2], "the rest stays as it was, outputs too"
    readme = both[1].read_text()
    assert (
        "01_a.ipynb" in readme and "run it from top to bottom" in readme and readme.endswith("-->\n\nrest\n")
    )


def test_what_cannot_be_brought_in_step(checkout, tmp_path):
    (checkout / "README.md").write_text("no block")
    with pytest.raises(CourseError, match="README.md has no lines"):
        colab.update(checkout)
    nbformat.write(nbformat.v4.new_notebook(), checkout / "notebooks" / "02_b.ipynb")
    with pytest.raises(CourseError, match="02_b.ipynb has 0 cells tagged 'setup'"):
        colab.update(checkout)
    (checkout / "pyproject.toml").write_text('[tool.coursekit]\nrepository = "git@github.com:a/b; x"\n')
    with pytest.raises(CourseError, match="is no address"):
        colab.update(checkout)
    (checkout / "pyproject.toml").write_text("")
    with pytest.raises(CourseError, match="run this in the checkout"):
        colab.update(checkout)


def outer(x: int) -> int:
    r"""Doubles.

    At length, with ```a fence```.
    """

    def inner():
        """Only this."""

    return 2 * x


def test_show_gives_the_source():
    shown = show(outer)
    assert repr(shown).startswith("def outer(x: int)") and "At length" in repr(shown)
    bare = show(outer, docstring=False)
    assert repr(bare) == "def outer(x: int) -> int:\n    def inner():\n        ...\n\n    return 2 * x"
    assert bare._repr_markdown_() == f"`test_notebook.py`\n````python\n{bare!r}\n````"
    exec(repr(bare), space := {})
    assert space["outer"](4) == 8


@dataclass(frozen=True)
class Pair:
    first: int = 0


def test_show_takes_classes_methods_properties_instances_and_several():
    from coursekit.models.archives import Archive

    assert repr(show(Pair)) == "@dataclass(frozen=True)\nclass Pair:\n    first: int = 0"
    assert "def requirement" in repr(show(Archive.requirement))
    assert repr(show(Pair(3))) == repr(show(Pair))
    both = show(Archive.matches, expect_types)
    assert (
        both.file == "coursekit/models/archives.py, coursekit/notebook/cells.py"
        and "\n\n\ndef expect_types" in repr(both)
    )
    assert "/" + "home" not in both._repr_markdown_() and str(Path.cwd()) not in both._repr_markdown_()
    with pytest.raises(CourseError, match="has no Python source"):
        show(len)


def test_every_function_of_the_package_survives_without_its_docstrings():
    import ast
    import inspect

    for module in (notebook, colab):
        for _, thing in inspect.getmembers(module, inspect.isfunction):
            if thing.__module__ == module.__name__:
                tree = ast.parse(repr(show(thing, docstring=False)))
                assert all(
                    ast.get_docstring(n) is None for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)
                )


def test_parameters_of_the_wrong_type_are_one_line():
    expect_types(steps=(60, int), lr=(1, float), seed=(None, (int, type(None))), names=(["a"], list))
    for given, says in [
        ({"steps": ("60", int)}, r"parameter 'steps' expects int, got '60' \(str\)"),
        ({"steps": (True, int)}, r"parameter 'steps' expects int, got True \(bool\)"),
        ({"steps": (6.0, int)}, r"parameter 'steps' expects int, got 6.0 \(float\)"),
        ({"lr": ("1e-3", float)}, "write 1.0e-03"),
    ]:
        with pytest.raises(CourseError, match=says) as caught:
            expect_types(**given)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_loading_a_library_prints_nothing_into_a_notebook(tmp_path):
    r"""tqdm warns once, with a path, where Jupyter has no widgets: that must not be in a committed notebook."""
    from coursekit.batch.runner import run_notebooks

    source = "from coursekit.notebook import expect_types\nimport transformers, datasets, peft, accelerate"
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    (result,) = run_notebooks([tmp_path / "n.ipynb"], tmp_path / "runs")
    assert result.ok
    assert nbformat.read(tmp_path / "runs" / "n.ipynb", 4).cells[0].outputs == []

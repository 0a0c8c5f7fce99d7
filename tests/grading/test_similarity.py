r"""Which answers are alike: by what they do, not by how they are written down; and all of them as files for JPlag."""

import ast
import csv
import json
from pathlib import Path

import made_up
import nbformat
import pytest
from typer.testing import CliRunner

from coursekit.errors import CourseError
from coursekit.grading import similarity
from coursekit.grading.commands import app
from tests.grading.batches import batch

ADA = """def lora_count(model, r=4):
    total = 0
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            total += r * (layer.in_features + layer.out_features)
        elif hasattr(layer, "nf"):
            total += r * layer.nf
    return total
"""
#: The same with other names, comments, annotations and layout.
COPY = """def lora_count(net, rank: int = 4) -> int:
    'Counts.'
    # my own idea
    n = 0
    for k, m in net.named_modules():
        if isinstance(m, torch.nn.Linear): n += rank * (m.in_features +
                                                        m.out_features)
        elif hasattr(m, "nf"): n += rank * m.nf
    return n
"""
OTHER = """def lora_count(model, r=4):
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    widths = [layer.weight.shape for layer in layers]
    return sum(r * sum(shape) for shape in widths) + len([m for m in model.modules() if hasattr(m, "nf")])
"""


def normal(source: str) -> tuple[str, ...]:
    return similarity.normal(ast.parse(source).body[0])


def test_names_comments_and_layout_do_not_count():
    assert normal(ADA) == normal(COPY) != normal(OTHER)
    for change in (("torch.nn.Linear", "torch.nn.Conv1d"), ("r * (", "r + ("), ("= 0", "= 1"), ('"nf"', '"nx"')):
        assert normal(ADA.replace(*change)) != normal(ADA), change


def test_a_deep_tree_is_no_trouble():
    assert len(normal("def f(x):\n    return x" + ".a" * 400)) > 400


def course(place: Path, **sources: str) -> tuple[Path, Path]:
    cell = made_up.exercise("lora-count", "def lora_count():\n    ...")
    (place / "course.ipynb").write_text(json.dumps(made_up.notebook([cell])))
    paths = {id: notebook(place / f"{id}.ipynb", source) for id, source in sources.items()}
    return batch(place / "marks", {id: {"path": path} for id, path in paths.items()}), place / "course.ipynb"


def test_the_report_lists_who_is_alike_and_says_what_was_not_compared(tmp_path):
    out, template = course(
        tmp_path, ada=ADA, bob=COPY, cy=OTHER, dee="def lora_count(:", eve="def lora_count():\n    ...",
        fay="def lora_count():\n    return 2", gus="def lora_count():\n    return 2",
    )  # fmt: skip
    pairs, said = similarity.report(out, template)
    assert [(p.one.id, p.other.id, p.alike, p.same) for p in pairs] == [("ada", "bob", 1.0, 2)]
    assert said == ["dee, lora-count: it does not parse and was not compared"]
    page = (out / "similarity.html").read_text()
    assert "my own idea" in page and "does not parse" in page
    rows = list(csv.DictReader((out / "similarity.csv").open()))
    assert [(r["one"], r["other"], r["alike"]) for r in rows] == [("ada", "bob", "1")]
    pairs, _ = similarity.report(out, template, least=0)
    assert {("ada", "cy"), ("bob", "cy")} <= {(p.one.id, p.other.id) for p in pairs if p.alike < 0.7}
    assert "ada" not in {p.one.id for p in similarity.report(out, template, anonymous=True)[0]}


def test_the_commands_say_where_to_look(tmp_path):
    out, template = course(tmp_path, ada=ADA, bob=COPY, cy=OTHER, dee="def lora_count(:")
    done = CliRunner().invoke(app, ["similarity", str(out), "--notebook", str(template), "--least", "0.9"])
    assert done.exit_code == 0 and "dee, lora-count: it does not parse and was not compared" in done.output
    assert f"1 pairs of answers alike by 90% or more; see {out / 'similarity.html'}" in done.output
    done = CliRunner().invoke(app, ["answers", str(out), "--template", str(template)])
    assert done.exit_code == 0 and "now run\njava -jar jplag.jar -l python3" in done.output
    assert (out / "answers" / "students" / "ada" / "lora_count.py").is_file()


def test_what_most_wrote_is_no_pair(tmp_path):
    out, template = course(tmp_path, **{f"s{i}": ADA for i in range(5)})
    pairs, said = similarity.report(out, template)
    assert pairs == [] and said == ["lora-count: 5 of 5 wrote what is usual; not listed"]
    with pytest.raises(CourseError, match="least must be a number of at least 0 and of at most 1"):
        similarity.report(out, template, least=80)


def notebook(path, *cells):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]), path)
    return str(path)


def test_answers_are_written_by_student_and_exercise(tmp_path):
    stubs = [made_up.exercise(f"lora-{name}", f"def lora_{name}():\n    ...") for name in ("count", "forward")]
    (tmp_path / "template.ipynb").write_text(json.dumps(made_up.notebook(stubs)))
    good = notebook(tmp_path / "a.ipynb", "%%broken (", "x = 1\ndef lora_count():\n    return 1",
                    "def lora_count():\n    return 2\n\ndef other():\n    pass")  # fmt: skip
    broken = tmp_path / "b.ipynb"
    broken.write_text(
        '{"cells": [1, {"cell_type": "code", "source": 7}, {"cell_type": "code", "source": ["def f(", 3]}]}'
    )
    (link := tmp_path / "d.ipynb").symlink_to(good)  # what the gate refuses
    paths = {"ada": good, "bob": str(broken), "dee": str(link), "fay": str(tmp_path / "gone.ipynb"), "../gus": good}
    out = batch(tmp_path / "marks", {id: {"path": path} for id, path in paths.items()})
    folder, command = similarity.write(out, tmp_path / "template.ipynb")
    found = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.py")}
    students = {name for name in found if name.startswith("students")}
    assert found["students/ada/lora_count.py"] == "def lora_count():\n    return 2\n"
    assert len(students) == 2 and all(".." not in name for name in students)
    assert found["template/lora_forward.py"] == "def lora_forward():\n    ...\n"
    assert command.startswith("java -jar jplag.jar") and command.endswith(str(folder / "students"))

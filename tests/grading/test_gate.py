r"""The gate takes any bytes and says one of two things: code cells, or why not. It never raises anything else."""

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.grading import gate, work

PLAIN = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3"}},
    "cells": [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Head"]},
        {"cell_type": "code", "id": "b", "metadata": {"tags": ["setup"]}, "source": ["x = 1\n", "y = 2"],
         "outputs": [], "execution_count": None},
    ],
}  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def looked_at(content: bytes) -> list[gate.Cell] | str:
    try:
        return gate.notebook(content)
    except gate.Refused as refusal:
        assert str(refusal).isprintable() and len(str(refusal)) < 200
        return str(refusal)


def paths(value: object, above: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(p for key, part in inner for p in paths(part, (*above, key)))]


def test_a_plain_notebook_passes():
    assert gate.notebook(json.dumps(PLAIN).encode()) == [gate.Cell(2, "x = 1\ny = 2", ("setup",))]
    assert gate.notebook(b"\xef\xbb\xbf" + json.dumps(PLAIN).encode())


@given(st.sampled_from(paths(PLAIN)), ANYTHING)
@settings(max_examples=300, deadline=None)
def test_any_part_may_be_replaced_by_anything(path: tuple, value: object):
    damaged = json.loads(json.dumps(PLAIN))
    if not path:
        damaged = value
    else:
        place = damaged
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    found = looked_at(json.dumps(damaged).encode())
    if isinstance(found, list):
        assert all(isinstance(c.source, str) and c.source.encode() is not None for c in found)
        assert isinstance(damaged, dict) and damaged["nbformat"] == 4


@given(st.integers(0, 500), st.integers(0, 255), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_byte_may_be_changed_or_lost(at: int, byte: int, cut: bool):
    content = bytearray(json.dumps(PLAIN).encode())
    content[at % len(content)] = byte
    looked_at(bytes(content[: at % len(content)] if cut else content))


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_may_come(content: bytes):
    assert isinstance(looked_at(content), str)


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "C:\\x", "..\\x", "", "a" * 301, "/".join("a" * 21), "x\0"]
)
def test_a_name_in_an_archive_stays_inside(name):
    with pytest.raises(gate.Refused, match="path"):
        gate.safe_name(name)
    assert gate.safe_name("a/./b.py") == "a/b.py"


def test_what_is_no_regular_file_is_not_read(tmp_path):
    (tmp_path / "link.ipynb").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo.ipynb")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "socket.ipynb"))
    for name in ("link.ipynb", "fifo.ipynb", "socket.ipynb"):
        with pytest.raises(gate.Refused, match="it is a link|not a regular file"):
            gate.files(tmp_path / name)
    (tmp_path / "sparse.ipynb").touch()
    os.truncate(tmp_path / "sparse.ipynb", gate.MOST + 1)
    with pytest.raises(gate.Refused, match="MB"):
        gate.files(tmp_path / "sparse.ipynb")


def test_one_bad_cell_takes_no_other_along():
    for bad in (7, None, {"cell_type": "strange", "source": "x"}, {"cell_type": "code", "source": 1},
                {"cell_type": "code", "source": ["x", 1]}, {"source": "x"}):  # fmt: skip
        damaged = {**PLAIN, "cells": [bad, *PLAIN["cells"]]}
        assert [(c.number, c.source) for c in gate.notebook(json.dumps(damaged).encode()) if c.source] == [
            (3, "x = 1\ny = 2")
        ]
    half = {**PLAIN, "cells": [{"cell_type": "code", "source": 'x = "\ud800"'}]}
    assert gate.notebook(json.dumps(half).encode())[0].source == 'x = "\\ud800"'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_a_notebook_in_another_unicode_is_read(encoding):
    content = json.dumps({**PLAIN, "metadata": {"author": "Zoë"}}, ensure_ascii=False).encode(encoding)
    assert gate.notebook(content)[0].source == "x = 1\ny = 2"


def test_what_teachers_read_of_the_gate_holds(tmp_path):
    page = Path(__file__).parents[2].joinpath("docs", "teaching.md").read_text(encoding="utf-8")
    most, together = (size // 2**20 for size in (gate.MOST, gate.MOST_TOGETHER))
    assert f"more than {gate.MOST_FILES} files, {most} MB in a file or {together} MB together" in page
    for place, n in ((".git", 300), ("__pycache__", 300), (".ipynb_checkpoints", 300), ("data", gate.MOST_FILES - 1)):
        (tmp_path / place).mkdir()
        for number in range(n):
            (tmp_path / place / str(number)).touch()
    (tmp_path / "A.IPYNB").write_bytes(json.dumps(PLAIN).encode("utf-16"))
    found = gate.files(tmp_path)
    assert len(found) == gate.MOST_FILES and gate.notebook(found[gate.the_notebook(found, "06_lora")])
    (tmp_path / "one more").touch()
    with pytest.raises(gate.Refused, match="more than 200 files beside the notebook: hand in what it needs"):
        gate.files(tmp_path)
    assert looked_at(json.dumps(PLAIN | {"nbformat": 3}).encode()).startswith("its notebook format is 3, not 4")


def test_no_name_in_a_folder_is_the_grader_s_failure(tmp_path):
    r"""Names that a zip may not have are those of real files here, and lie beside the notebook as they did."""
    deep = tmp_path / "sub" / ("x" * 220) / "/".join("d" * 25)
    deep.mkdir(parents=True)
    for name in ("c:x.txt", "back\\slash.txt", "y" * 240):
        (deep / name).write_text("mine")
    (deep / "06_lora.ipynb").write_text("{}")
    files = gate.files(tmp_path / "sub")
    name = gate.the_notebook(files, "06_lora")
    work._write_files(tmp_path / "stage", files, name)
    assert {p.name for p in (tmp_path / "stage").iterdir()} == {"c:x.txt", "back\\slash.txt", "y" * 240}
    with pytest.raises(gate.Refused, match="its file b cannot lie beside the notebook"):
        work._write_files(tmp_path / "stage", {"a": b"", "a/b": b"", "n.ipynb": b""}, "n.ipynb")

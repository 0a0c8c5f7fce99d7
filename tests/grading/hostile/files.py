r"""Hostile submissions that are hostile as files: what is no notebook, archives that reach out, names that do harm.

Each function writes one or more submissions into a folder and returns what is expected: id -> (status, mark).
"""

from __future__ import annotations

import copy
import json
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

#: Marks: all points, all but those of the one exercise that is hostile, some, none.
FULL, REST, SOME, NONE = "full", "rest", "some", "none"
Expected = dict[str, tuple[str, str]]
REFUSED = ("invalid_notebook", NONE)


def save(folder: Path, name: str, notebook: Any) -> None:
    (folder / name).write_text(json.dumps(notebook))


def cell_of(notebook: dict, function: str) -> dict:
    return next(c for c in notebook["cells"] if f"def {function}" in "".join(c["source"]))


def forged(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""21: outputs and metadata that claim full marks, around functions that are blank."""
    notebook = copy.deepcopy(blank)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "check(" in "".join(cell["source"]):
            text = {"text/plain": ["✓ lora-truncate: passed (2/2 points)."]}
            cell["outputs"] = [{"output_type": "execute_result", "data": text, "metadata": {}, "execution_count": 1}]
            cell["metadata"]["nbgrader"] = {"grade": True, "points": 100, "grade_id": "lora-truncate"}
    notebook["metadata"]["papermill"] = {"status": "completed", "score": 100}
    save(folder, "21_forged.ipynb", notebook)
    return {"21_forged": ("not_attempted", NONE)}


def no_json(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""24: no JSON, nothing, an empty object, a list, a number too long, a notebook that is cut off."""
    contents = {"a": "{not json", "b": "", "c": "{}", "d": "[]", "e": "1" * 10_000, "f": json.dumps(solved)[:-200]}
    for letter, content in contents.items():
        (folder / f"24{letter}_json.ipynb").write_text(content)
    return {f"24{letter}_json": REFUSED for letter in contents}


def formats(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""25: formats of the past and of the future, and no number at all."""
    for letter, version in (("a", 3), ("b", 5), ("c", "4"), ("d", True), ("e", 4.0)):
        save(folder, f"25{letter}_format.ipynb", {**solved, "nbformat": version})
    return {f"25{letter}_format": REFUSED for letter in "abcde"}


def not_utf8(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""26: Latin-1, and half of a character that JSON can spell."""
    notebook = copy.deepcopy(solved)
    cell_of(notebook, "lora_truncate")["source"] = 'x = "é"'
    (folder / "26a_latin.ipynb").write_bytes(json.dumps(notebook, ensure_ascii=False).encode("latin-1", "replace"))
    cell_of(notebook, "lora_merge")["source"] = 'x = "\ud800"'
    save(folder, "26b_surrogate.ipynb", notebook)
    return {"26a_latin": REFUSED, "26b_surrogate": ("missing_name", SOME)}


def deep(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""27: JSON and Python that are nested 100,000 deep."""
    (folder / "27a_deep.ipynb").write_text("[" * 100_000 + "]" * 100_000)
    inside = json.dumps(solved)[:-1] + ', "x": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}"
    (folder / "27b_deep.ipynb").write_text(inside)
    notebook = copy.deepcopy(solved)
    cell = cell_of(notebook, "lora_truncate")
    cell["source"] = "lora_truncate = " + "(" * 100_000 + ")" * 100_000
    save(folder, "27c_deep.ipynb", notebook)
    cell["source"] = "lora_truncate = " + "-" * 200_000 + "1"
    save(folder, "27d_deep.ipynb", notebook)
    return {"27a_deep": REFUSED, "27b_deep": REFUSED, "27c_deep": ("error", REST), "27d_deep": ("error", REST)}


def large(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""28: a file of 200 MB, most of it a hole."""
    with (folder / "28_large.ipynb").open("wb") as file:
        file.write(json.dumps(solved).encode())
        file.truncate(200_000_000)
    return {"28_large": REFUSED}


def ids(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""29: one id for all cells; and cells without any."""
    notebook = copy.deepcopy(solved)
    for cell in notebook["cells"]:
        cell["id"] = "same"
    save(folder, "29a_ids.ipynb", notebook)
    for cell in notebook["cells"]:
        del cell["id"]
    save(folder, "29b_ids.ipynb", notebook)
    return {"29a_ids": ("ok", FULL), "29b_ids": ("ok", FULL)}


def sources(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""30: sources that are a number, a list of numbers, nothing."""
    for letter, source in (("a", 1), ("b", ["x", 1]), ("c", None), ("d", {"x": "y"})):
        notebook = copy.deepcopy(solved)
        cell_of(notebook, "lora_truncate")["source"] = source
        save(folder, f"30{letter}_source.ipynb", notebook)
    return {f"30{letter}_source": ("missing_name", REST) for letter in "abcd"}


def names(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""31: names that mean something to papermill, a shell, a terminal, a web page, or to no encoding."""
    stems = [
        "31 {x}",
        "31 $(touch pwned)",
        "31 `id`;&|",
        "31 <b>&amp;",
        "31 -rf --out",
        "31 ..",
        "31 " + "x" * 200,
        "31 %s %n",
    ]
    for stem in stems:  # the gate alone has to do with names: most can be what it refuses
        (folder / f"{stem}.ipynb").write_text(json.dumps(solved) if stem == stems[1] else "{")
    expected: Expected = dict.fromkeys(stems, REFUSED) | {stems[1]: ("ok", FULL)}
    for raw, shown in ((b"31 a\nb\x1b[2J", "31 a?b?[2J-"), (b"31 \xff\xfe", "31 ??-")):
        with open(os.fsencode(folder) + b"/" + raw + b".ipynb", "w") as file:
            json.dump(solved, file)
        expected[shown] = ("ok", FULL)
    return expected


def archives(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""32: names in a zip that lead out of it, and links; 32f is an honest one."""
    text = json.dumps(solved)
    for letter, name in (("a", "../../../tmp/coursekit-was-here"), ("b", "/tmp/coursekit-was-here"), ("c", "..\\x")):
        with zipfile.ZipFile(folder / f"32{letter}_slip.zip", "w") as file:
            file.writestr("06_lora.ipynb", text)
            file.writestr(name, "pwned")
    with zipfile.ZipFile(folder / "32d_link.zip", "w") as file:
        file.writestr("06_lora.ipynb", text)
        link = zipfile.ZipInfo("passwd")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    (folder / "32e_link.ipynb").symlink_to("/etc/passwd")
    with zipfile.ZipFile(folder / "32f_honest.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("work/06_lora.ipynb", text)
        file.writestr("work/notes.txt", "mine")
    (folder / "32g_folder").mkdir()
    (folder / "32g_folder" / "passwd").symlink_to("/etc/passwd")
    os.mkfifo(folder / "32g_folder" / "fifo")
    save(folder / "32g_folder", "06_lora.ipynb", solved)
    (folder / "32h_torn.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    expected: Expected = {f"32{x}": REFUSED for x in ("a_slip", "b_slip", "c_slip", "d_link", "e_link", "h_torn")}
    return expected | {"32f_honest": ("ok", FULL), "32g_folder": ("ok", FULL)}


def bomb(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""33: a small zip of 100 MB, one that lies about its size, and one of 100,000 files."""
    with zipfile.ZipFile(folder / "33a_bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("06_lora.ipynb", b" " * 100_000_000)
    content = bytearray((folder / "33a_bomb.zip").read_bytes())
    size = (100_000_000).to_bytes(4, "little")
    for _ in range(2):
        at = content.find(size)
        content[at : at + 4] = (1000).to_bytes(4, "little")
    (folder / "33b_liar.zip").write_bytes(content)
    with zipfile.ZipFile(folder / "33c_many.zip", "w") as file:
        for number in range(3_000):
            file.writestr(f"{number}", "")
    return {"33a_bomb": REFUSED, "33b_liar": REFUSED, "33c_many": REFUSED}


def kernels(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""34: kernels that are not there, or not Python's."""
    for letter, spec in (("a", {"name": "ir", "display_name": "R", "language": "R"}), ("b", "python3"), ("c", None)):
        save(folder, f"34{letter}_kernel.ipynb", {**solved, "metadata": {"kernelspec": spec}})
    save(folder, "34d_kernel.ipynb", {**solved, "metadata": 7})
    return {f"34{letter}_kernel": ("ok", FULL) for letter in "abcd"}


def helper(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""36: a helper file that ends the process when it is imported; and one that helps."""
    for letter, line in (("a", "import os; os._exit(0)"), ("b", "import sys; sys.exit(0)"), ("c", "")):
        place = folder / f"36{letter}_helper"
        place.mkdir()
        truncate = "import torch\ndef truncate(W, r):\n    U, S, V = torch.linalg.svd(W, full_matrices=False)\n"
        (place / "helper.py").write_text(f"{truncate}    return (U[:, :r] * S[:r]) @ V[:r]\n{line}\n")
        notebook = copy.deepcopy(solved)
        cell_of(notebook, "lora_truncate")["source"] = "from helper import truncate as lora_truncate\n"
        save(place, "06_lora.ipynb", notebook)
    return {"36a_helper": ("kernel_died", REST), "36b_helper": ("incomplete", REST), "36c_helper": ("ok", FULL)}


def people(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""38: students whose names are a formula, and hold a comma."""
    for name in ("=cmd", "Doe, Jr.", '+1+1"'):
        save(folder, f"{name}.ipynb", solved)
    return {name: ("ok", FULL) for name in ("=cmd", "Doe, Jr.", '+1+1"')}


def moved(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""Honest, but rearranged: cells in reverse, an answer copied above its blank cell, two cells made into one."""
    notebook = copy.deepcopy(solved)
    exercises = [c for c in notebook["cells"] if c.get("metadata", {}).get("nbgrader", {}).get("solution")]
    setup = [c for c in notebook["cells"] if "".join(c["source"]).startswith("#@title Imports")]
    setup += [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    notebook["cells"] = [*exercises[::-1], *setup]
    save(folder, "40a_reversed.ipynb", notebook)
    notebook = copy.deepcopy(solved)
    cell = cell_of(notebook, "lora_truncate")
    at = notebook["cells"].index(cell)
    notebook["cells"].insert(at + 1, copy.deepcopy(cell_of(blank, "lora_truncate")))
    save(folder, "40b_copied.ipynb", notebook)
    notebook = copy.deepcopy(solved)
    one = cell_of(notebook, "lora_truncate")
    other = cell_of(notebook, "lora_merge")
    one["source"] = "%%time\n" + "".join(one["source"]) + "\n\n" + "".join(other["source"])
    notebook["cells"].remove(other)
    save(folder, "40c_joined.ipynb", notebook)
    return {x: ("ok", FULL) for x in ("40a_reversed", "40b_copied", "40c_joined")}


def slow_to_read(folder: Path, solved: dict, blank: dict) -> Expected:
    r"""46: code that a grader would read for ever: a thousand magics in a cell, a megabyte of it, long chains."""
    notebook = copy.deepcopy(solved)
    cell = cell_of(notebook, "lora_truncate")
    cell["source"] = "%x\n" * 1500 + "def lora_truncate(W, r):\n    return W\n"
    save(folder, "46a_magics.ipynb", notebook)
    cell["source"] = "x = 1\n" * 100_000
    save(folder, "46b_long.ipynb", notebook)
    cell["source"] = "lora_truncate = " + "+".join(["x"] * 50_000)
    save(folder, "46c_chain.ipynb", notebook)
    cell["source"] = "lora_truncate = x" + ".a" * 50_000
    save(folder, "46d_chain.ipynb", notebook)
    return {
        "46a_magics": ("error", REST),
        "46b_long": REFUSED,
        "46c_chain": ("error", REST),
        "46d_chain": ("error", REST),
    }


ALL = (
    forged,
    no_json,
    formats,
    not_utf8,
    deep,
    large,
    ids,
    sources,
    names,
    archives,
    bomb,
    kernels,
    helper,
    people,
    moved,
    slow_to_read,
)

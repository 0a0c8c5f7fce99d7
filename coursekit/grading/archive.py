r"""Taking a submission apart: a notebook, a folder, or a zip. Names inside of it reach no path outside."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath

from coursekit.grading.gate import MOST, MOST_FILES, Refused, read_file

#: Bytes of all files of one submission together, and how much smaller a zip may be than what it holds.
MOST_TOGETHER = 50 * 2**20
MOST_DENSITY = 200


def files(path: Path) -> dict[str, bytes]:
    r"""The files of a submission, by their relative names: of a folder, a zip, or the one file itself."""
    found: dict[str, bytes] = {}
    together = 0
    for name, content in _contents(path):
        together += len(content)
        if together > MOST_TOGETHER:
            raise Refused(f"its files are larger than {MOST_TOGETHER // 2**20} MB in total")
        if len(found) >= MOST_FILES:
            raise Refused(f"it has more than {MOST_FILES} files")
        found[name] = content
    return found


def the_notebook(names: list[str], wanted: str) -> str:
    r"""Which of the files is the submission: the only notebook, or the one that is called as the assignment is."""
    notebooks = [n for n in names if n.endswith(".ipynb") and ".ipynb_checkpoints" not in n]
    if not notebooks:
        raise Refused("it contains no notebook (no .ipynb file)")
    if len(notebooks) > 1:
        named = [n for n in notebooks if wanted in PurePosixPath(n).stem]
        if len(named) != 1:
            raise Refused(f"it contains {len(notebooks)} notebooks: hand in one, named {wanted}.ipynb")
        return named[0]
    return notebooks[0]


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_symlink():
        raise Refused("it is a link, not a file: hand in the notebook itself")
    if path.is_dir():
        yield from _folder(path)
    elif path.suffix.lower() == ".zip":
        yield from _zip(read_file(path, MOST_TOGETHER))
    else:
        yield "submission.ipynb", read_file(path)


def _folder(path: Path) -> Iterator[tuple[str, bytes]]:
    seen = 0
    for folder, folders, names in os.walk(path, followlinks=False):
        folders.sort()
        for name in sorted(names):
            seen += 1
            if seen > 10 * MOST_FILES:
                raise Refused(f"it has more than {MOST_FILES} files")
            file = Path(folder, name)
            if file.is_symlink() or not stat.S_ISREG(file.lstat().st_mode):
                continue  # what a link or a FIFO stands for was not handed in
            relative = file.relative_to(path).as_posix()
            if ".ipynb_checkpoints" not in relative:
                yield relative, read_file(file, MOST)


def _zip(content: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) > 10 * MOST_FILES:
                raise Refused(f"the zip has {len(members):,} entries")
            for member in members:
                if (
                    member.is_dir()
                    or "__MACOSX" in member.filename
                    or ".ipynb_checkpoints" in member.filename
                ):
                    continue
                yield safe_name(member.filename), _member(archive, member)
    except Refused:
        raise
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,
        RuntimeError,
        OSError,
        ValueError,
    ) as error:
        raise Refused(f"the zip cannot be read: {str(error)[:80]}") from error
    except Exception as error:  # a decompressor's own
        raise Refused(f"the zip cannot be read: {type(error).__name__}") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if stat.S_ISLNK(member.external_attr >> 16):
        raise Refused("the zip contains a link: put the file itself into it")
    if member.file_size > MOST or member.file_size > MOST_DENSITY * max(member.compress_size, 5_000):
        raise Refused("the zip contains a file that is too large once unpacked")
    with archive.open(member) as file:
        content = file.read(MOST + 1)  # the size that a zip states is a claim
    if len(content) > MOST:
        raise Refused("the zip contains a file that is too large once unpacked")
    return content


def safe_name(name: str) -> str:
    r"""A relative name that stays inside. Raises Refused for one that would not."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or ":" in path.parts[0]:
        raise Refused("the zip contains a path that leads outside its folder")
    if len(str(path)) > 300 or len(path.parts) > 20 or any(len(p.encode()) > 200 for p in path.parts):
        raise Refused("the zip contains a path that is too long")
    return str(path)


def shown(name: str) -> str:
    r"""A file's name as it may be shown and stored: printable, short."""
    plain = name.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else "?" for c in plain)[:200]

r"""The cache: folders that are complete or absent, made once, by one process at a time.

`$COURSEKIT_HOME`, by default a folder in the user's cache. What is extracted or converted goes there in one step, so a
killed download or conversion leaves nothing that a later run could take for complete. Beside it stands what it should
be: a folder that was damaged since is noticed and made anew.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coursekit.errors import CourseError, machine
from coursekit.files import sha256_of
from coursekit.paths import home

#: Room that all archives and what is made of them take together, in GB.
ROOM_GB = 1.0
#: In every folder of the cache: size and SHA-256 of each of its files.
NOTE = ".coursekit.json"


def ready(name: str, make: Callable[[Path], None], thorough: bool = False) -> Path:
    r"""The folder `name` of the cache. Where it is not there yet, or damaged, `make(temporary folder)` fills it anew.

    Damaged is a file that is missing or has another size than when it was made; thorough: or other content.
    """
    final = home() / name
    with explained(name):
        if final.is_dir() and not _damage(final, thorough):
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        with _locked(name):
            if final.is_dir():
                damage = _damage(final, thorough)
                if not damage:  # another process was faster
                    return final
                say(f"{final} is damaged ({damage}): making it anew")
            # Nobody else works on `name` while the lock is held: what a killed process left can go.
            for stale in final.parent.glob(f".{name}.*.part"):
                shutil.rmtree(stale, ignore_errors=True)
            part = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{name}.", suffix=".part"))
            try:
                make(part)
                _note(part)
                for path in (part, *part.rglob("*")):  # temporary files are private; the cache may be shared
                    path.chmod(0o755 if path.is_dir() else 0o644)
                if final.is_dir():  # under a name that the next run clears away, should this one be killed
                    os.replace(final, final.parent / f".{name}.damaged.part")
                os.replace(part, final)
            finally:
                for rest in final.parent.glob(f".{name}.*.part"):
                    shutil.rmtree(rest, ignore_errors=True)
    return final


def problem(name: str) -> str:
    r"""What is wrong with the folder `name` of the cache, every file read; "" for nothing."""
    folder = home() / name
    return _damage(folder, thorough=True) if folder.is_dir() else "not there yet"


def _note(folder: Path) -> None:
    r"""Write down size and content of every file in `folder`, so that damage is noticed later."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    noted = {p.relative_to(folder).as_posix(): [p.stat().st_size, sha256_of(p)] for p in files}
    (folder / NOTE).write_text(json.dumps(noted, indent=0), encoding="utf-8")


def _damage(folder: Path, thorough: bool) -> str:
    r"""What is wrong with `folder`, "" for nothing. A folder without a note is from before there were any."""
    note = folder / NOTE
    if not note.is_file():
        return "made by an earlier version, which did not note its content" if thorough else ""
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        for name, (size, digest) in noted.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size:,} of {size:,} bytes"
            if thorough and sha256_of(path) != digest:
                return f"{name} has other content"
    except (ValueError, TypeError, AttributeError):
        return f"{NOTE} cannot be read"
    return ""


@contextmanager
def _locked(name: str) -> Iterator[None]:
    r"""One process at a time makes the folder `name` of the cache; the others wait, and say so."""
    from filelock import FileLock, Timeout

    lock = FileLock(home() / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process that prepares {name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def explained(name: str) -> Iterator[None]:
    r"""Turn what the disk refuses into one line. Libraries wrap the error, so the text counts as well."""
    try:
        yield
    except CourseError:
        raise
    except Exception as error:
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            raise disk_full(name) from error
        if isinstance(error, OSError) and error.filename:
            raise machine(
                f"cannot prepare {name} in the cache {home()} ({error.strerror}: {error.filename}): "
                "set COURSEKIT_HOME to a folder you may write to, then run `coursekit fetch`"
            ) from error
        raise


def disk_full(name: str) -> CourseError:
    r"""The error for a full disk."""
    return machine(
        f"the disk is full, {name} could not be prepared in {home()}: free about {ROOM_GB:g} GB or set "
        "COURSEKIT_HOME to a folder on another disk, then run `coursekit fetch`"
    )


def say(line: str) -> None:
    r"""One line on the standard error: the standard output belongs to results."""
    print(f"coursekit: {line}", file=sys.stderr, flush=True)

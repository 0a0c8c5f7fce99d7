r"""The folder of a batch: secret, manifest, results, events, audit, lock. One writer, nothing half-written."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.files import replace_text


class Batch:
    r"""`out` and what lies in it."""

    def __init__(self, out: Path) -> None:
        self.out = out.absolute()
        self.results = self.out / "results"
        self.manifest, self.assignment = self.out / "manifest.jsonl", self.out / "assignment.json"
        self.work = self.out / ".work"

    def make(self) -> None:
        r"""The folder, closed to others, with a secret of its own."""
        self.out.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.results.mkdir(exist_ok=True)
        secret = self.out / "secret"
        if not secret.exists():
            replace_text(secret, secrets.token_hex(32) + "\n", 0o600)

    def secret(self) -> bytes:
        r"""Drawn once a batch: whoever knows it knows the questions."""
        try:
            return bytes.fromhex((self.out / "secret").read_text().strip())
        except (OSError, ValueError) as error:
            raise CourseError(
                f"{self.out} has no usable secret: create the folder again with `coursekit grade plan`"
            ) from error

    def lines(self) -> list[dict[str, Any]]:
        r"""The manifest."""
        try:
            return [json.loads(line) for line in self.manifest.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError):
            raise CourseError(f"{self.out} has no usable manifest: run `coursekit grade plan` first") from None

    def result(self, key: str) -> dict[str, Any] | None:
        r"""What is known of a submission; None where it is still to be graded, as after the grader's own failure."""
        try:
            found = json.loads((self.results / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return None if found.get("status") == "infrastructure" else found

    def hints(self) -> dict[str, list[str]]:
        r"""Those of the assignment's notebook, by exercise; none where there is no plan, or one made without them."""
        if not self.assignment.is_file():
            return {}
        try:
            return json.loads(self.assignment.read_text(encoding="utf-8")).get("hints", {})
        except (OSError, ValueError):
            raise CourseError(f"{self.out} has no usable assignment: run `coursekit grade plan` again") from None

    def write_result(self, result: dict[str, Any]) -> None:
        r"""Whole or not at all."""
        text = json.dumps(result, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
        replace_text(self.results / f"{result['key']}.json", text)

    def event(self, what: str, **more: Any) -> None:
        r"""A line of events.jsonl: what the batch does, for a progress display elsewhere."""
        _append(self.out / "events.jsonl", {"time": _now(), "event": what, **more})

    def why(self) -> str:
        r"""The first line of the grader's own last failure."""
        events = (self.out / "events.jsonl").read_text(encoding="utf-8").splitlines()
        said = [e["why"] for e in map(json.loads, events) if e["event"] == "infrastructure"]
        return said[-1].strip().splitlines()[0][:300] if said and said[-1].strip() else "it says nothing"

    @contextlib.contextmanager
    def lock(self, shared: bool = False) -> Iterator[None]:
        r"""For one grader alone, or for `grade one`s beside each other. Raises CourseError where another has it."""
        import fcntl  # not on Windows, where every other command works

        with (self.out / "lock").open("a") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError:
                raise CourseError(
                    f"another grader is working on {self.out}: wait for it, or choose another --out"
                ) from None
            yield


def note(out: Path, did: str, **more: Any) -> None:
    r"""A line of audit.jsonl, to which lines are added and never changed: who did what to the marks, and when."""
    _append(out / "audit.jsonl", {"time": _now(), "by": _who(), "did": did, **more}, 0o600)


def _append(path: Path, line: dict[str, Any], mode: int = 0o644) -> None:
    r"""One write to a file opened for appending: two graders' lines never run into each other."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(json.dumps(line).encode() + b"\n")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this number, as in a container
        return str(os.getuid())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

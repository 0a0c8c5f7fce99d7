r"""Running apart from judging: a runner in a container of its own runs what a grader in another sends it.

The runner has neither marks nor secret, and its container may be thrown away; the grader never runs a submission.
Between them is a socket in a folder that both containers see, and on it one JSON line a run, there and back.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import coursekit
from coursekit.errors import CourseError
from coursekit.grading import boxes, package
from coursekit.grading.bwrap_runner import BwrapRunner
from coursekit.grading.container_runner import ContainerRunner
from coursekit.grading.limits import Limits


class RemoteRunner(BwrapRunner):
    r"""As BwrapRunner; what it runs is run by the runner behind the socket."""

    def run(self, exercises: int, **more: Any) -> dict[str, Any]:
        r"""As BwrapRunner.run."""
        staged = [p for p in sorted(self.stage.rglob("*")) if p.is_file()]
        job = {
            "limits": dataclasses.asdict(self.limits), "exercises": exercises, "more": more,
            "stage": {str(p.relative_to(self.stage)): _text(p.read_bytes()) for p in staged},
            "questions": self.questions.read_text(),
        }  # fmt: skip
        limits = {**self.limits.inside(exercises), **more}
        try:
            answer = boxes.ask(job, limits["run"] + limits["probe"] + 120)
        except (OSError, ValueError) as error:
            return {"end": "infrastructure", "message": f"the runner does not answer: {error}"}
        for name, content in answer.pop("files", {}).items():
            {"report": self.report, "before": self.before}[name].write_bytes(base64.b64decode(content))
        return answer


def serve(path: Path) -> None:
    r"""Run what comes, one after the other, for good. Raises CourseError where this cannot be a runner.

    The installed package is closed to other users first: it holds the answers, and submissions are other users here.
    """
    if os.geteuid() != 0:
        raise CourseError("a runner must be root in its container, so that submissions can be somebody else there.")
    own = Path(coursekit.__file__).resolve().parent
    closed = own.parent if (own.parent / "pyproject.toml").is_file() else own
    if any(Path(p).is_relative_to(closed) for p in boxes.python_paths()):
        raise CourseError(f"Python lies inside of {closed}, which is to be closed: install it elsewhere.")
    closed.chmod(0o700)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as door:
        work = Path(folder)
        work.chmod(0o711)
        lib = package.copy_package(work / "lib")
        boxes.write_users(lib)
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        door.bind(str(path))
        os.umask(mask)
        door.listen()
        for number in range(sys.maxsize):
            line, _ = door.accept()
            with line, contextlib.suppress(OSError, ValueError):  # whoever asked has gone
                _serve_one(line, number, work, lib)


def _serve_one(line: socket.socket, number: int, work: Path, lib: Path) -> None:
    with line.makefile("rb") as file:
        job = json.loads(file.readline(boxes.MOST))
    if not job:
        return line.sendall(b'{"runner": "ready"}\n')
    from coursekit.paths import home

    models = home() if home().is_dir() else None
    slot = ContainerRunner("none", number, work, lib, Limits(**job["limits"]), [], [work], models)
    try:
        slot.clear()
        for name, content in job["stage"].items():
            target = slot.stage / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(base64.b64decode(content))
        slot.questions.write_text(job["questions"])
        answer = slot.run(job["exercises"], **job["more"])
        answer["files"] = {n: _text(getattr(slot, n).read_bytes()) for n in ("report", "before")}
    except Exception as error:
        answer = {"end": "infrastructure", "message": f"{type(error).__name__}: {error}"}
    finally:
        slot.close()
    return line.sendall(json.dumps(answer).encode() + b"\n")


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()

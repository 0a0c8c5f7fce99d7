r"""A slot: one place at which submissions are run one after the other, each in a fresh box.

It has a user of its own where the grader is root, so that what one box may use is counted apart from all others.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from coursekit.grading import boxes
from coursekit.grading.cgroup import Cgroup
from coursekit.grading.limits import Limits
from coursekit.grading.package import INSIDE

#: First user id of the slots: nobody's, in the range that no system hands out.
FIRST_UID = 61_000
#: Seconds for the imports of a prefork server.
WARM_UP = 300


class BwrapRunner:
    r"""`run` gives the verdict of the supervisor on one run; the files of the run lie in `folder`."""

    #: Whether the slot's user opens what a run says and prints; else only the grader may.
    server_writes: ClassVar[bool] = True

    def __init__(
        self, number: int, work: Path, lib: Path, limits: Limits, preload: list[str], hidden: list[Path],
        models: Path | None,
    ) -> None:  # fmt: skip
        self.folder = work / f"slot-{number}"
        self.stage, self.home = self.folder / "in", self.folder / "home"
        names = ("report", "before", "output", "questions")
        self.report, self.before, self.output, self.questions = (self.folder / name for name in names)
        self.lib, self.limits, self.preload, self.models = lib, limits, preload, models
        self.hidden = hidden
        self.user, self._held = _free_user() if os.geteuid() == 0 else (None, None)
        for folder in (self.folder, self.stage, self.home):
            folder.mkdir(mode=0o755)
            folder.chmod(0o755)
        if self.user is not None:
            os.chown(self.home, self.user, self.user)
        self.cgroup = Cgroup.make(f"coursekit-{os.getpid()}-{number}", limits)
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer, self._warm = b"", False

    def clear(self) -> None:
        r"""Nothing of the run before is left for the next."""
        for path in self.stage.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in (self.report, self.before, self.output):
            path.unlink(missing_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
            if self.user is not None and self.server_writes:
                os.chown(path, self.user, self.user)
        self.questions.unlink(missing_ok=True)

    def show(self) -> None:
        r"""Let the slot's user read what it is to be shown."""
        if self.user is not None:
            os.chown(self.questions, self.user, self.user)
        for folder, _, names in os.walk(self.stage):
            os.chmod(folder, 0o755)
            for name in names:
                os.chmod(os.path.join(folder, name), 0o644)

    def run(self, exercises: int, **more: Any) -> dict[str, Any]:
        r"""Run what lies in `stage`; the questions must lie in `questions`. See `supervise` for the verdict."""
        self.show()
        limits = {**self.limits.inside(exercises), **more}
        job = {
            "box": boxes.bwrap_command(self.lib, self.stage, self.limits, self.hidden, self.models),
            "report": str(self.report), "before": str(self.before), "output": str(self.output),
            "questions": str(self.questions),
            "limits": limits, "tmpfs": boxes.tmpfs(self.limits),
            "environment": boxes.environment(self.lib, self.models is not None),
        }  # fmt: skip
        before = self.cgroup.kills() if self.cgroup else 0
        process = self._ready()
        try:
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
            verdict = self._line(process, limits["run"] + limits["probe"] + 60)
        except (OSError, ValueError) as error:
            self.stop()
            return {"end": "infrastructure", "message": f"the prefork server does not answer: {error}"}
        if self.cgroup and self.cgroup.kills() > before and verdict["end"] == "exit":
            verdict["end"] = "memory_limit"
        return verdict

    def start(self) -> subprocess.Popen[bytes]:
        r"""The prefork server, started where there is none, without waiting for its imports."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.stop()
        environment = boxes.environment(self.lib, self.models is not None)
        if self.models is not None:
            environment["COURSEKIT_HOME"] = str(self.models)
        environment |= {"HOME": str(self.home), "MPLCONFIGDIR": str(self.home), "IPYTHONDIR": str(self.home)}
        command = self.as_user([sys.executable, "-P", "-m", f"{INSIDE}.prefork_server"])
        self._buffer, self._warm = b"", False
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
            cwd=self.lib, start_new_session=True,
        )  # fmt: skip
        self._process = process
        process.stdin.write(json.dumps({"preload": self.preload, "home": str(self.home)}).encode() + b"\n")
        process.stdin.flush()
        return process

    def as_user(self, command: list[str]) -> list[str]:
        r"""`command` as the slot's user, who is shown Python, the slot, the package and the models."""
        if self.user is None:
            return command
        shown = [*boxes.python_paths(), str(self.folder), str(self.lib)]
        shown += [] if self.models is None else [os.path.realpath(self.models)]
        return [sys.executable, "-P", "-m", f"{INSIDE}.namespaces", str(self.user), *shown, "--", *command]

    def stop(self) -> None:
        r"""End the server, and with it whatever it runs; also from another thread than the one that waits for it."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError, ValueError):
            process.stdin.close()  # it ends its box first
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        r"""End the prefork server and give back the slot's user and control group."""
        self.stop()
        if self.cgroup:
            self.cgroup.remove()
        if self._held is not None:
            self._held.close()

    def _ready(self) -> subprocess.Popen[bytes]:
        try:
            process = self.start()
            if not self._warm:
                self._warm = "ready" in self._line(process, WARM_UP)
                if self.cgroup:
                    self.cgroup.add(process.pid)
        except (OSError, ValueError) as error:
            self.stop()
            raise RuntimeError(f"the prefork server does not start: {error}") from error
        return process

    def _line(self, process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
        r"""The prefork server's next line, waited for at most so long."""
        until = time.monotonic() + seconds
        stream = process.stdout.fileno()
        while b"\n" not in self._buffer:
            if not select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]:
                raise OSError("no answer in time")
            part = os.read(stream, 1 << 16)
            if not part:
                raise OSError("it has ended")
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)


def _free_user() -> tuple[int, socket.socket]:
    r"""A user id that no other grader on this machine uses now, and the socket whose name holds it."""
    for user in range(FIRST_UID, FIRST_UID + 1000):
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(f"\0coursekit-grading-{user}")  # given back by the kernel, however the grader ends
        except OSError:
            held.close()
            continue
        return user, held
    raise RuntimeError("all users of the grader are taken")

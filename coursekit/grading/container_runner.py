r"""A slot whose boxes are podman's, or which has none: another user's processes, as in a runner's container.

Without a prefork server: every run imports torch anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from coursekit.grading import boxes
from coursekit.grading.bwrap_runner import BwrapRunner
from coursekit.grading.inside.supervise import supervise
from coursekit.grading.package import INSIDE


class ContainerRunner(BwrapRunner):
    r"""As BwrapRunner; `box` is podman or none."""

    server_writes: ClassVar[bool] = False

    def __init__(self, box: str, *given: Any) -> None:
        super().__init__(*given)
        self.box = box

    def run(self, exercises: int, **more: Any) -> dict[str, Any]:
        r"""As BwrapRunner.run."""
        self.show()
        limits = {**self.limits.inside(exercises), **more}
        limits["run"] += 30  # the imports of torch count here
        with contextlib.ExitStack() as stack:
            report, before, output = (
                stack.enter_context(path.open("r+b", buffering=0)).fileno()
                for path in (self.report, self.before, self.output)
            )
            wait, feed = os.pipe()
            hear, tell = os.pipe()
            stack.callback(os.close, hear)
            home = stack.enter_context(tempfile.TemporaryDirectory(dir=self.folder))
            if self.user is not None:
                os.chown(home, self.user, self.user)
            name = f"coursekit-{os.getpid()}-{secrets.token_hex(6)}"
            command, environment = self._command(Path(home), limits, name)
            process = subprocess.Popen(
                command, stdin=wait, stdout=tell, stderr=output, env=environment, cwd=home, start_new_session=True
            )
            os.close(wait)
            os.close(tell)
            try:
                verdict = supervise(
                    lambda: _code(process), hear, report, before, output, self.questions.read_bytes(), feed, limits,
                    _sampler(process, self.user),
                )  # fmt: skip
                if self.box == "podman" and verdict["end"] == "exit":
                    verdict |= _end_of_container(name, self.output)
                return verdict
            finally:
                _end(process, self.user)
                if self.box == "podman":  # its processes are no children of the command that asked for them
                    _podman("rm", "--force", "--ignore", "--time", "0", name)

    def _command(self, home: Path, limits: dict[str, Any], name: str) -> tuple[list[str], dict[str, str]]:
        inside = boxes.environment(self.lib, self.models is not None)
        run = [sys.executable, "-P", "-m", f"{INSIDE}.cold"]
        if self.box == "none":
            own = {"HOME": str(home), "TMPDIR": str(home), "MPLCONFIGDIR": str(home), "IPYTHONDIR": str(home)}
            if self.models is not None:
                own["COURSEKIT_HOME"] = str(self.models)
            return self.as_user([*run, str(self.stage), json.dumps(limits)]), inside | own
        run += ["/in", json.dumps(limits)]
        return boxes.podman_command(
            self.lib, self.stage, self.limits, inside, self.models, self.user, name
        ) + run, dict(os.environ)


def _podman(*arguments: str) -> str:
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout


def _end_of_container(name: str, output: Path) -> dict[str, str]:
    r"""What the end of a container says beside its exit status, which is the student's to choose."""
    state, _, killed = _podman("inspect", "--format", "{{.State.Status}} {{.State.OOMKilled}}", name).partition(" ")
    if state not in ("exited", "stopped", "stopping", "running"):  # it never ran
        said = " ".join(output.read_text(errors="replace").split())[-500:]
        return {"end": "infrastructure", "message": f"podman cannot start a container: {said}"}
    return {"end": "memory_limit"} if killed.strip() == "true" else {}


def _code(process: subprocess.Popen[bytes]) -> int | None:
    code = process.poll()
    return code if code is None or code < 128 else 128 - code  # a shell's way to say by which signal


def _sampler(process: subprocess.Popen[bytes], user: int | None) -> Any:
    import psutil

    def running() -> list[psutil.Process]:
        if user is None:
            return psutil.Process(process.pid).children(recursive=True)
        # Also those whose parent is somebody else's, as in podman's containers.
        return [p for p in psutil.process_iter(["uids"]) if p.info["uids"] and p.info["uids"].real == user]

    def sample() -> tuple[int, int]:
        memory = number = 0
        with contextlib.suppress(psutil.Error):
            for one in running():
                with contextlib.suppress(psutil.Error):
                    used = one.memory_info()
                    memory, number = memory + used.rss - used.shared, number + 1
        return memory, number

    return sample


def _end(process: subprocess.Popen[bytes], user: int | None) -> None:
    r"""End the run and all that it started."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for one in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                one.kill()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if user is not None:  # the slot's user has no other processes
        end = f"import os; os.setgid({user}); os.setuid({user}); os.kill(-1, 9)"
        subprocess.run([sys.executable, "-S", "-c", end], check=False, stderr=subprocess.DEVNULL)

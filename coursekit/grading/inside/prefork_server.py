r"""The prefork server: imports torch and the course once, then forks a process into a fresh box for each submission.

It runs as the slot's own user, outside of the box, holds no secret and never runs a submission's code. Requests come
as JSON lines on standard input, answers leave on standard output; when the grader is gone, so is everything here.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from . import namespaces
from .supervise import sampler, supervise


def main() -> None:
    r"""Preload, say "ready", then one line of work after the other."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    setting = json.loads(sys.stdin.buffer.raw.readline())
    begun = time.monotonic()
    gc.disable()  # what is imported stays: a fifth of the time went into looking for what could go
    # jsonschema does without it: a grammar for addresses, of which notebooks have none, and a second at each start.
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    failed = _preload(setting["preload"])
    from . import engine, student  # noqa: F401  (warm)

    del sys.modules["rfc3987_syntax"]

    engine.shell(setting["home"])
    engine.warm(Path(setting["home"]))
    gc.freeze()  # a collection in a fork would touch, and so copy, every page
    gc.enable()
    print(json.dumps({"ready": time.monotonic() - begun, "failed": failed}), file=channel)
    while line := sys.stdin.buffer.raw.readline():
        try:
            answer = _run(json.loads(line))
        except Exception as error:
            answer = {"end": "infrastructure", "message": f"{error}", "trace": traceback.format_exc()}
        print(json.dumps(answer), file=channel)


def _preload(statements: list[str]) -> list[str]:
    r"""Runs the import statements of the course's own notebook; returns those that fail."""
    failed = []
    for statement in statements:
        try:
            exec(statement, {})
        except Exception as error:
            failed.append(f"{statement}: {error}")
    return failed


def _run(job: dict[str, Any]) -> dict[str, Any]:
    begun = time.monotonic()
    report, before = (os.open(job[name], os.O_WRONLY | os.O_NOFOLLOW) for name in ("report", "before"))
    output = os.open(job["output"], os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
    with _Box(job["box"]) as box:
        made = time.monotonic() - begun
        said, say = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(said)
                verdict = _inside(box, job, report, before, output)
            except BaseException as error:
                verdict = {"end": "infrastructure", "message": str(error), "trace": traceback.format_exc()}
            os.write(say, json.dumps(verdict).encode())
            os._exit(0)
        os.close(say)
        for descriptor in (report, before, output):
            os.close(descriptor)
        answer = _heard(said, pid)
        answer["box"] = made
    return answer


class _Box:
    r"""A fresh box that bwrap keeps open; killed with everything in it on leaving."""

    def __init__(self, command: list[str]) -> None:
        told, tell = os.pipe()
        calls, call = os.pipe()
        os.write(call, namespaces.filter_program())
        os.close(call)
        at = command.index("--")
        self.process = subprocess.Popen(
            [*command[:at], "--info-fd", str(tell), "--seccomp", str(calls), *command[at:]],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(tell, calls),
            env={"PATH": os.environ["PATH"]},  # which everybody in the box can read
        )  # fmt: skip
        os.close(tell)
        os.close(calls)
        ok = self.process.stdout.read(1) == b"\n"  # its first program runs: everything is mounted
        if not ok:
            os.close(told)
            error = self.process.stderr.read(2000).decode(errors="replace").strip()
            self.process.wait()
            raise OSError(f"the box cannot be made: {error}")
        with os.fdopen(told) as info:
            self.pid = json.loads(info.read())["child-pid"]
        self.first = os.pidfd_open(self.pid)

    def __enter__(self) -> _Box:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.first, signal.SIGKILL)
        # The first process of a pid namespace is gone only when all others in there are.
        gone, _, _ = select.select([self.first], [], [], 20)
        os.close(self.first)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()
        if not gone:
            raise OSError("a process in the box does not end: it waits for the kernel")


def _heard(said: int, pid: int) -> dict[str, Any]:
    r"""What the supervisor says; the grader's end of standard input ends everything."""
    content = b""
    while True:
        ready, _, _ = select.select([said, 0], [], [])
        if said in ready:
            part = os.read(said, 1 << 16)
            content += part
            if not part:
                break
        elif 0 in ready:  # nothing is sent while a job runs: the grader has gone
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise SystemExit
    os.close(said)
    os.waitpid(pid, 0)
    return json.loads(content) if content else {"end": "infrastructure", "message": "the supervisor ended"}


def _inside(box: _Box, job: dict[str, Any], report: int, before: int, output: int) -> dict[str, Any]:
    r"""The supervisor: enters the box, forks the student's process there and watches it."""
    namespaces.end_with_parent()
    for stream in (0, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    asked = os.open(job["questions"], os.O_RDONLY)
    limits = job["limits"]
    user = namespaces.join(box.pid)
    for path, (size, inodes) in job["tmpfs"].items():
        namespaces.limit_tmpfs(path, size, inodes)
    # A socket of the box's own network. Unlike a file or a pipe it gives nothing back of what was said into it.
    hear, tell = (end.detach() for end in socket.socketpair())
    wait, feed = os.pipe()
    entered, enter = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_student(user, tell, output, wait, enter, limits, job["environment"])
    for descriptor in (wait, enter, tell):
        os.close(descriptor)
    with os.fdopen(entered, "rb") as file:  # before the student's code runs; a failure here is the grader's own
        word = file.read()
    if word != b"k":
        raise OSError(f"the box cannot be entered: {word.decode(errors='replace')[-2000:] or 'no word'}")
    with os.fdopen(asked, "rb") as file:  # only now: the student's process has no copy of them in its memory
        questions = file.read()

    def poll() -> int | None:
        done, status = os.waitpid(pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if done else None

    return supervise(poll, hear, report, before, output, questions, feed, limits, sampler(limits["memory"]))


def _become_student(
    user: int, tell: int, output: int, wait: int, enter: int, limits: dict[str, Any], environment: dict[str, str]
) -> None:
    try:
        os.setsid()
        namespaces.end_with_parent()
        high = [_above(d) for d in (tell, wait, output, enter)]
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        for target, source in ((1, high[2]), (2, high[2]), (3, high[0]), (4, high[1]), (5, high[3])):
            os.dup2(source, target)
        kept = _above(user)
        os.closerange(6, kept)
        os.closerange(kept + 1, 4096)
        set_limits(limits)
        namespaces.leave_privileges(kept)
        os.close(kept)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(environment["HOME"])
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        os.write(5, b"k")
        os.close(5)
    except BaseException:
        os.write(5, traceback.format_exc().encode())
        os._exit(99)
    from . import student

    try:
        student.main()
    except BaseException:
        traceback.print_exc()
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def set_limits(limits: dict[str, Any]) -> None:
    r"""Limits of this process and its children, for good. `data` is counted from what is in use already."""
    wall = int(limits["run"] + limits["probe"]) + 2
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, wall),
        (resource.RLIMIT_FSIZE, limits["file"]),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_DATA, data_in_use() + limits["data"]),
    ):
        resource.setrlimit(kind, (most, most))


def data_in_use() -> int:
    r"""Bytes of private memory of this process, as RLIMIT_DATA counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmData"))


def _above(descriptor: int) -> int:
    r"""The same descriptor under a number out of the way of the fixed ones."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, 64)


if __name__ == "__main__":
    main()

r"""A run without a prefork server, for boxes that are made by others: podman, or none at all.

`python -m coursekit_box.cold STAGE LIMITS`: the questions come on standard input, the report leaves on standard output,
and what is printed on standard error.
Two processes: the outer one is the parent of whatever the inner one leaves behind, and ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from . import namespaces
from .prefork_server import set_limits


def main(stage: str, limits: str) -> None:
    r"""Fork, run, end what is left; exits as the inner process did."""
    namespaces.adopt_orphans()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        _inner(Path(stage), json.loads(limits))
    os.close(0)
    os.close(1)
    _, status = os.waitpid(pid, 0)
    _end_children()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _inner(stage: Path, limits: dict[str, float]) -> None:
    high = [os.dup2(d, 60 + i) for i, d in enumerate((1, 0))]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for target, source in zip((3, 4), high, strict=True):
        os.dup2(source, target)
    os.closerange(5, 1024)
    set_limits(limits)
    with contextlib.suppress(OSError):
        namespaces.leave_privileges(None)
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # as in the prefork server
    from . import engine, student

    del sys.modules["rfc3987_syntax"]
    engine.shell(os.environ["IPYTHONDIR"])
    try:
        student.main(stage)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _end_children() -> None:
    r"""Kill children until none is left; their own become ours meanwhile."""
    while True:
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                if (
                    name.isdigit()
                    and int(Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1]) == os.getpid()
                ):
                    os.kill(int(name), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])

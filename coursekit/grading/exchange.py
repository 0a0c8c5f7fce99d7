r"""The grader's end of the socket on which a runner listens; see `runner`."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

#: Names the socket to a grader whose box is "runner".
VARIABLE = "COURSEKIT_RUNNER"
#: Bytes of one line.
MOST = 2**28


def ask(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    r"""What the runner answers; {} asks whether it is there. OSError or ValueError where it does not."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(seconds)
        line.connect(os.environ.get(VARIABLE, ""))
        return _talk(line, job)


def problem() -> str | None:
    r"""None where a runner is there; else why not."""
    if not os.environ.get(VARIABLE):
        return f"set {VARIABLE} to the socket of `coursekit grade runner`"
    try:
        return None if ask({}, 60) == {"runner": "ready"} else "what listens there is not a runner"
    except (OSError, ValueError) as error:
        return f"the runner does not answer: {error}"


def _talk(line: socket.socket, job: dict[str, Any]) -> dict[str, Any]:
    line.sendall(json.dumps(job).encode() + b"\n")
    with line.makefile("rb") as file:
        return json.loads(file.readline(MOST))

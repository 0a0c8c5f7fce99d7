r"""What an exception says to a student, and which status it is. Only one's own marks can be talked down here."""

from __future__ import annotations

import errno
import re
import traceback
from dataclasses import dataclass
from typing import Any

#: Statuses that a run may report of itself. `infrastructure` is not among them: nobody excuses himself.
OWN = (
    "error",
    "incomplete",
    "kernel_died",
    "missing_dependency",
    "memory_limit",
    "process_limit",
    "output_limit",
    "disk_limit",
)


@dataclass(frozen=True)
class Failure:
    r"""`kind`: name of the exception's type. `line`: in the cell. `text`: what it said, for the run phase only."""

    status: str
    kind: str
    line: int | None
    text: str


def failure(error: BaseException) -> Failure:
    r"""Looks at an exception, whatever its class does when it is looked at."""
    kind = re.sub(r"\W", "_", str(type.__getattribute__(type(error), "__name__")))[:60]
    try:
        text = " ".join(str(error)[:2000].split())[:200]
    except BaseException:
        text = ""
    return Failure(_status(error, text), kind, _line(error), text)


def _status(error: BaseException, text: str) -> str:
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "not enough memory" in text:
        return "memory_limit"
    if isinstance(error, ModuleNotFoundError):
        return "missing_dependency"
    if isinstance(error, SystemExit):
        return "incomplete"
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return "process_limit"
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EAGAIN:
        return "process_limit"
    if code == errno.ENOMEM:
        return "memory_limit"
    if code in (errno.EFBIG, errno.ENOSPC, errno.EDQUOT):
        return "disk_limit"
    return "error"


def _line(error: BaseException) -> int | None:
    r"""The last line in a cell that the exception came through."""
    if isinstance(error, SyntaxError):
        return error.lineno if isinstance(error.lineno, int) else None
    found: Any = None
    try:
        for frame, line in traceback.walk_tb(error.__traceback__):
            if "ipython-input" in frame.f_code.co_filename or "ipykernel" in frame.f_code.co_filename:
                found = line
    except Exception:
        return None
    return found if isinstance(found, int) else None

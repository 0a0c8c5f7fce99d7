r"""Inside the box: run the staged cells, then answer questions with the functions found by name.

Everything here shares a process with the student's code, so nothing here is believed: what is written to the report
is bytes from a stranger. The worst that tampering does is to spoil the tamperer's own answers.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython.core.interactiveshell import InteractiveShell

from . import engine
from .failures import Failure, failure
from .supervise import READY
from .wire import Unreadable, decode, encode

#: Descriptors of the report and of the questions.
REPORT, QUESTIONS = 3, 4


def main(job: Path = Path("/in")) -> None:
    r"""Run the job that lies in the folder `job`, in the current folder."""
    task = json.loads((job / "job.json").read_text())
    if (job / "files").is_dir():
        shutil.copytree(job / "files", ".", dirs_exist_ok=True)
    sys.path.insert(0, os.getcwd())
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    tell = _teller(os.getpid())
    engine.run(
        job / "notebook.ipynb",
        started=lambda cell: tell({"event": "cell", "cell": cell}),
        failed=lambda cell, what: tell({"event": "failed", "cell": cell, **asdict(what)}),
    )
    _flush()
    _write(READY)
    names = InteractiveShell.instance().user_ns
    questions = json.loads(_everything(QUESTIONS))
    for exercise, cases in questions.items():
        tell({"event": "exercise", "id": exercise})
        _answer(exercise, task["exercises"][exercise], cases, names, task["seconds"], tell)
    tell({"event": "done"})


def _answer(
    exercise: str,
    name: str,
    cases: list[list[Any]],
    names: dict[str, Any],
    seconds: float,
    tell: Callable[[dict[str, Any]], None],
) -> None:
    r"""One exercise in a process of its own, so that one that hangs or dies takes no other along."""
    if name not in names:
        return tell({"event": "missing", "id": exercise})
    pid = os.fork()
    if pid == 0:
        os.setsid()
        try:
            _cases(exercise, names[name], cases, _teller(os.getpid()))
        finally:
            os._exit(0)
    until = time.monotonic() + seconds
    pause = 0.0005
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return tell({"event": "gone", "id": exercise, "code": code})
        if time.monotonic() > until:
            tell({"event": "late", "id": exercise})
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(pause)
        pause = min(0.01, 1.3 * pause)


def _cases(exercise: str, function: Any, cases: list[list[Any]], tell: Callable[[dict[str, Any]], None]) -> None:
    def failed(number: int, what: Failure) -> None:  # never its text, which could tell the questions
        tell({"event": "stopped", "id": exercise, "case": number, **asdict(what), "text": ""})

    for number, arguments in enumerate(cases):
        try:
            values = [decode(a, code=True) for a in arguments]
            given = encode(function(*values))
        except Unreadable as error:
            tell({"event": "unreadable", "id": exercise, "case": number, "text": str(error)[:100]})
        except BaseException as error:
            failed(number, failure(error))
        else:
            tell({"event": "answer", "id": exercise, "case": number, "value": given})
    try:
        _flush()
    except OSError as error:
        failed(len(cases) - 1, failure(error))
    tell({"event": "all", "id": exercise})


def _teller(owner: int) -> Callable[[dict[str, Any]], None]:
    r"""Writes lines to the report; a copy of the process that the student's code forked off writes none."""

    def tell(line: dict[str, Any]) -> None:
        if os.getpid() == owner:
            _write(json.dumps(line).encode() + b"\n")

    return tell


def _write(content: bytes) -> None:
    while content:
        content = content[os.write(REPORT, content) :]


def _everything(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()

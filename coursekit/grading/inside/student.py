r"""Inside the box: run the staged cells, then answer questions with the functions found by name.

Everything here shares a process with the student's code, so nothing here is believed: what is written to the report
is bytes from a stranger. The worst that tampering does is to spoil the tamperer's own answers.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython.core.interactiveshell import InteractiveShell

from . import engine
from .failures import Failure, failure
from .supervise import READY, write_all
from .wire import Unreadable, decode, encode, encode_trained

#: Descriptors of the report and of the questions.
REPORT, QUESTIONS = 3, 4


def main(job: Path = Path("/in")) -> None:
    r"""Run the job that lies in the folder `job`, in the current folder."""
    task = json.loads((job / "job.json").read_text())
    tell = _teller(os.getpid())
    if (job / "files").is_dir():
        shutil.copytree(job / "files", ".", dirs_exist_ok=True)
    sys.path.insert(0, os.getcwd())
    from coursekit import checks
    from coursekit.notebook import built

    checks.OWN.update(task["numbers"])  # the box's own checks, which hold nothing else
    for id, questions in task["practice"].items():
        checks.PRACTICE[id] = [functools.partial(decode, question, code=True) for question in questions]
    looks = {id: getattr(built, name) for id, name in task["looks"].items()}  # before the student's code runs
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    engine.run(
        job / "notebook.ipynb",
        started=lambda cell: tell({"event": "cell", "cell": cell}),
        failed=lambda cell, what: tell({"event": "failed", "cell": cell, **asdict(what)}),
        parameters=task["parameters"],
        seconds=task["seconds"],
    )
    _flush()
    write_all(REPORT, READY)
    names = InteractiveShell.instance().user_ns
    with os.fdopen(QUESTIONS, "rb") as file:
        questions = json.load(file)
    for exercise, cases in questions.items():
        name, look, most = task["exercises"][exercise], looks.get(exercise), task["trained"].get(exercise)
        asked = None if name not in names else functools.partial(look, names[name]) if look else names[name]
        _answer(exercise, asked, cases, tell, most)
    return None


def _answer(
    exercise: str, asked: Callable[..., Any] | None, cases: list[list[Any]], tell: Callable[[dict[str, Any]], None],
    trained: int | None,
) -> None:  # fmt: skip
    r"""trained: bytes that the tensors of a training may have; None for a function that is asked for values."""

    def failed(number: int, what: Failure) -> None:  # never its text, which could tell the questions
        tell({"event": "stopped", "id": exercise, "case": number, **asdict(what), "text": ""})

    tell({"event": "exercise", "id": exercise})
    if asked is None:
        return tell({"event": "missing", "id": exercise})
    for number, arguments in enumerate(cases):
        try:
            values = [decode(a, code=True) for a in arguments]
            value = asked(*values)
            given = encode(value) if trained is None else encode_trained(value, trained)
        except Unreadable:
            tell({"event": "unreadable", "id": exercise, "case": number})
        except BaseException as error:
            failed(number, failure(error))
        else:
            tell({"event": "answer", "id": exercise, "case": number, "value": given})
    try:
        _flush()
    except OSError as error:
        failed(len(cases) - 1, failure(error))
    return tell({"event": "ended", "id": exercise})


def _teller(owner: int) -> Callable[[dict[str, Any]], None]:
    r"""Writes lines to the report; a copy of the process that the student's code forked off writes none."""

    def tell(line: dict[str, Any]) -> None:
        if os.getpid() == owner:
            write_all(REPORT, json.dumps(line).encode() + b"\n")

    return tell


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()

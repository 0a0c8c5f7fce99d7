r"""A papermill engine without a kernel: the cells run in this process, which was forked from the warm server."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import papermill
from IPython.core.interactiveshell import InteractiveShell
from papermill.engines import Engine, papermill_engines
from traitlets.config import Config

from .failures import Failure, failure

NAME = "coursekit-fork"
#: Of the seconds of a run: what all cells may take until the last is begun, and what one may take.
CELLS_SHARE, CELL_SHARE = 0.7, 0.25


def shell(home: str) -> InteractiveShell:
    r"""The IPython shell in which the cells run."""
    settings = Config()
    settings.HistoryManager.enabled = False
    settings.InteractiveShell.colors = "nocolor"
    settings.InteractiveShell.cache_size = 0
    settings.InteractiveShell.ipython_dir = home
    return InteractiveShell.instance(config=settings)


class _Here(Engine):
    started: Callable[[int], None]
    failed: Callable[[int, Failure], None]
    seconds = 0.0

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> None:
        r"""Every cell, also after one that failed: what later exercises need may stand there."""
        until = time.monotonic() + cls.seconds * CELLS_SHARE
        for index, cell in enumerate(nb_man.nb.cells):
            if cell.cell_type != "code" or not cell.source.strip():
                continue
            if cls.seconds and time.monotonic() > until:
                break  # what is bound by now is asked
            number = cell.metadata.get("cell", 0)
            cls.started(number)
            nb_man.cell_start(cell, index)
            signal.setitimer(signal.ITIMER_REAL, cls.seconds * CELL_SHARE)
            result = InteractiveShell.instance().run_cell(cell.source)
            signal.setitimer(signal.ITIMER_REAL, 0)
            error = result.error_before_exec or result.error_in_exec
            if error is not None:
                cls.failed(number, failure(error))
            nb_man.cell_complete(cell, cell_index=index)


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError("the cell takes too long")


def warm(folder: Path) -> None:
    r"""Run a notebook without cells, written to `folder`: all that papermill imports on the way is there then."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": []}
    (folder / "empty.ipynb").write_text(json.dumps(notebook))
    run(folder / "empty.ipynb", lambda cell: None, lambda cell, what: None, {}, 0)


def run(
    notebook: Path, started: Callable[[int], None], failed: Callable[[int, Failure], None],
    parameters: dict[str, Any], seconds: float,
) -> None:  # fmt: skip
    r"""Run a staged notebook's cells through papermill; tells the number of each as it starts, and what failed.

    seconds: that the run may take, 0 where others see to that: a cell that takes too large a share of them is passed
    over, as is what would be begun near their end.
    """
    signal.signal(signal.SIGALRM, _too_long)
    _Here.seconds = seconds
    _Here.started, _Here.failed = staticmethod(started), staticmethod(failed)
    papermill_engines.register(NAME, _Here)
    papermill.execute_notebook(
        str(notebook), None, parameters, engine_name=NAME, kernel_name="python3", progress_bar=False, log_output=False
    )

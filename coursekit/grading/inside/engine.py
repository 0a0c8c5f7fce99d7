r"""A papermill engine without a kernel: the cells run in this process, which was forked from the warm zygote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import papermill
from IPython.core.interactiveshell import InteractiveShell
from papermill.engines import Engine, papermill_engines
from traitlets.config import Config

from .failures import Failure, failure

NAME = "coursekit-fork"


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

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> None:
        r"""Every cell, also after one that failed: what later exercises need may stand there."""
        for index, cell in enumerate(nb_man.nb.cells):
            if cell.cell_type != "code" or not cell.source.strip():
                continue
            number = cell.metadata.get("cell", 0)
            cls.started(number)
            nb_man.cell_start(cell, index)
            result = InteractiveShell.instance().run_cell(cell.source)
            error = result.error_before_exec or result.error_in_exec
            if error is not None:
                cls.failed(number, failure(error))
            nb_man.cell_complete(cell, cell_index=index)


def warm(folder: Path) -> None:
    r"""Run a notebook without cells, written to `folder`: all that papermill imports on the way is there then."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": []}
    (folder / "empty.ipynb").write_text(json.dumps(notebook))
    run(folder / "empty.ipynb", lambda cell: None, lambda cell, what: None, {})


def run(
    notebook: Path,
    started: Callable[[int], None],
    failed: Callable[[int, Failure], None],
    parameters: dict[str, Any],
) -> None:
    r"""Run a staged notebook's cells through papermill; tells the number of each as it starts, and what failed."""
    _Here.started, _Here.failed = staticmethod(started), staticmethod(failed)
    papermill_engines.register(NAME, _Here)
    papermill.execute_notebook(
        str(notebook),
        None,
        parameters,
        engine_name=NAME,
        kernel_name="python3",
        progress_bar=False,
        log_output=False,
    )

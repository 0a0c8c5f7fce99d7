r"""Inside the box: the complete notebook, by papermill with a kernel of its own. Its marks do not come from here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import papermill
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

NAME = "coursekit-whole"


class TooMuch(Exception):
    r"""The notebook prints more than it may."""


class _Client(PapermillNotebookClient):
    started: Callable[[int], None]
    most = 0
    printed = 0

    def execute_cell(self, cell: Any, cell_index: int, *args: Any, **kwargs: Any) -> Any:
        type(self).started(cell.metadata.get("cell", 0))
        return super().execute_cell(cell, cell_index, *args, **kwargs)

    def process_message(self, message: Any, cell: Any, cell_index: int) -> Any:
        self.printed += len(str(message.get("content", "")))
        if (
            self.printed > self.most
        ):  # kept in memory, a gigabyte of output would end papermill, not the notebook
            raise TooMuch
        return super().process_message(message, cell, cell_index)


class _Engine(NBClientEngine):
    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> None:
        _Client(
            nb_man, kernel_name=kernel_name, timeout=None, startup_timeout=120, log_output=False
        ).execute()


def run(
    notebook: Path, parameters: dict[str, Any], most: int, started: Callable[[int], None]
) -> tuple[int, str, str, str] | None:
    r"""Run all cells; None where every one was executed, else (cell, status, kind and text of the error)."""
    _Client.started, _Client.most = staticmethod(started), most
    papermill_engines.register(NAME, _Engine)
    done = Path("/tmp/done.ipynb")
    try:
        papermill.execute_notebook(
            str(notebook), str(done), parameters, engine_name=NAME, kernel_name="python3", progress_bar=False
        )
    except papermill.PapermillExecutionError as error:
        cells = papermill.iorw.load_notebook_node(str(done)).cells
        there = [c.metadata.get("cell", 0) for c in cells if c.metadata.get("papermill", {}).get("exception")]
        status = "missing_dependency" if error.ename == "ModuleNotFoundError" else "error"
        return (there or [0])[0], status, error.ename, error.evalue
    except TooMuch:
        return 0, "output_limit", "", ""
    except Exception as error:
        return 0, "kernel_died", type(error).__name__, str(error)
    for cell in papermill.iorw.load_notebook_node(str(done)).cells:
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            return (
                cell.metadata.get("cell", 0),
                "incomplete",
                "",
                "it was not executed: the kernel had already stopped",
            )
    return None

r"""Papermill without its processes: the runner's command, executed in this process in a hundredth of the time."""

import contextlib
import io
from pathlib import Path

import nbformat
import yaml
from papermill.iorw import NoDatesSafeLoader
from papermill.translators import PythonTranslator

from coursekit.batch.processes import Watched


def watch(command, *, env=None, timeout=None, stop=None, log=None) -> Watched:
    r"""Stands in for `processes.watch` where that is given papermill to run."""
    source, target = (path.replace("{{", "{").replace("}}", "}") for path in command[3:5])
    book, status, space = nbformat.read(source, 4), 0, {}
    given = {}
    if "--parameters_file" in command:
        text = Path(command[command.index("--parameters_file") + 1]).read_text()
        given = yaml.load(text, Loader=NoDatesSafeLoader)
    for number, cell in enumerate((c for c in book.cells if c.cell_type == "code"), start=1):
        said, cell.execution_count = io.StringIO(), number
        try:
            with contextlib.redirect_stdout(said):
                exec(cell.source, space)
                if "parameters" in cell.metadata.get("tags", []):
                    exec(PythonTranslator.codify(given), space)
        except Exception as error:
            status = 1
            cell.outputs = [nbformat.v4.new_output("error", ename=type(error).__name__, evalue=str(error))]
            break
        cell.outputs = [nbformat.v4.new_output("stream", text=said.getvalue())] if said.getvalue() else []
    nbformat.write(book, target)
    return Watched(status, 0.1, 100, False)

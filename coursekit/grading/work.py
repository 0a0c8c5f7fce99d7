r"""What the judge does when it is asked: let a submission through the gate and stage it, make questions, mark."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.grading import archive, gate, needs, verdict
from coursekit.grading import exercises as ex
from coursekit.grading import ids as ids_of
from coursekit.grading.inside.wire import encode_argument


class Work:
    r"""`ids`: the exercises of the assignment; their secret cases are drawn once."""

    def __init__(self, secret: bytes, ids: list[str], cases: int) -> None:
        self.ids = ids
        self.exercises = ex.named(ids)
        self.trainings = ex.trainings(self.exercises)
        self.numeric = ex.numeric(self.exercises)
        self.asked: dict[str, list[Any]] = {id: [t.posing(secret)] for id, t in self.trainings.items()}
        for id in ids:
            if id not in {*self.trainings, *self.numeric}:
                self.asked[id] = ex.secret_cases(self.exercises[id], secret, cases)

    def do_questions(self, path: str, ids: list[str]) -> None:
        r"""Write the questions of exercises `ids`, without answers, to `path`."""
        asked = {id: [[encode_argument(a) for a in case] for case in self._arguments(id)] for id in ids}
        Path(path).write_text(json.dumps(asked))

    def _arguments(self, id: str) -> list[tuple[Any, ...]]:
        r"""What the function is called with: whoever has numbers of his own has them already."""
        if id in self.numeric:
            return [()]
        return [one.arguments for one in self.asked[id]] if id in self.trainings else self.asked[id]

    def do_points(self) -> dict[str, float]:
        r"""Points of each exercise."""
        return {id: exercise.points for id, exercise in self.exercises.items()}

    def do_budgets(self) -> dict[str, float]:
        r"""Seconds of each exercise that trains."""
        return {id: training.budget.seconds for id, training in self.trainings.items()}

    def do_models(self) -> str:
        r"""The folder of the course's models, whether it is there or not."""
        from coursekit.models.cache import home

        return str(home())

    def do_gate(
        self, path: str, stage: str, notebook: str, skip: list[int], ids: list[str], variant: int | None
    ) -> dict[str, Any]:
        r"""Look at a submission and write what the box is shown of it into `stage`, for the exercises `ids`.

        skip: leave out these cells, which ended a box. variant: papermill's parameter; None where everybody has the
        same numbers, and the notebook stays as it came. Returns {"refused": message} or what was found
        of each exercise.
        """
        try:
            files = archive.files(Path(path))
            hashes = {n: hashlib.sha256(content).hexdigest() for n, content in files.items()}
            name = archive.the_notebook(list(files), notebook)
            cells = gate.notebook(files.pop(name))
        except gate.Refused as refusal:
            return {"refused": str(refusal)}
        names = {id: ids_of.function_name(id) for id in ids}
        sources = [""] * (max((c.number for c in cells), default=0) + 1)
        tags = {c.number: c.tags for c in cells}
        for cell in cells:
            if "setup" in cell.tags:  # it only finds the package, and the box has it
                continue
            if cell.number not in skip:
                sources[cell.number] = cell.source
        found = needs.needed(sources, list(names.values()))
        content = [
            {"source": source, "cell": n, "tags": [t for t in tags[n] if t == "parameters"]}
            for n, source in sorted(found.cells.items())
        ]
        folder = Path(stage)
        _write_notebook(folder / "notebook.ipynb", content)
        _write_files(folder / "files", files, name)
        job = {
            "exercises": names,
            "trained": {id: t.budget.most for id, t in self.trainings.items() if id in names},
            "numbers": {
                id: dict(zip(e.given, e.own(variant or 0), strict=True)) for id, e in self.numeric.items()
            },
            "parameters": {} if variant is None else {"variant": variant},
        }
        (folder / "job.json").write_text(json.dumps(job))
        looked = {id: self._exercise(function, found, sources) for id, function in names.items()}
        return {"exercises": looked, "files": {archive.shown(n): h for n, h in hashes.items()}}

    def do_stage_whole(
        self, path: str, stage: str, notebook: str, parameters: dict[str, Any], most: int
    ) -> None:
        r"""Write the complete notebook into `stage`, as it came but for its outputs. most: bytes that it may print."""
        files = archive.files(Path(path))
        name = archive.the_notebook(list(files), notebook)
        cells = gate.notebook(files.pop(name))
        folder = Path(stage)
        content = [{"source": c.source, "cell": c.number, "tags": list(c.tags)} for c in cells]
        _write_notebook(folder / "notebook.ipynb", content)
        _write_files(folder / "files", files, name)
        (folder / "job.json").write_text(json.dumps({"whole": most, "parameters": parameters}))

    def do_mark(
        self, before: str, report: str, most: int, ids: list[str], variant: int | None
    ) -> dict[str, Any]:
        r"""Read what came out of a box: {"run": ..., "exercises": {id: ...}} for those that were asked."""
        run = verdict.run_phase(verdict.harvest(Path(before), most))
        own = {id: [e.own(variant or 0)] for id, e in self.numeric.items() if id in ids}
        asked = {id: own[id] if id in own else self.asked[id] for id in ids}
        judged = {**self.exercises, **{id: e.asks for id, e in self.numeric.items()}}
        content = verdict.harvest(Path(report), most)
        return {"run": run, "exercises": verdict.probe_phase(content, judged, asked)}

    def _exercise(self, function: str, found: needs.Slice, sources: list[str]) -> dict[str, Any]:
        copies = found.copies[function]
        state: dict[str, Any] = {
            "copies": copies,
            "cells": found.needed[function],
            "blank": function in found.blank and not found.opaque,
            "status": None,
            "message": "",
        }
        if copies or found.opaque:
            return state
        here = [n for n in found.broken if re.search(rf"\bdef {function}\b|\b{function} *=", sources[n])]
        if here:
            return {
                **state,
                "copies": 1,
                "status": "error",
                "where": here[0],
                "message": found.broken[here[0]],
            }
        near = difflib.get_close_matches(function, set(found.functions), n=1, cutoff=0.6)
        meant = f"; did you name it {near[0][:60]}?" if near else ""
        return {
            **state,
            "status": "missing_name",
            "message": f"there is no function called {function}{meant}",
        }


def _write_notebook(path: Path, cells: list[dict[str, Any]]) -> None:
    content = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                     "language_info": {"name": "python"}},
        "cells": [
            {"cell_type": "code", "id": f"cell-{c['cell']}", "source": c["source"], "outputs": [],
             "execution_count": None, "metadata": {"cell": c["cell"], "tags": c["tags"]}}
            for c in cells
        ],
    }  # fmt: skip
    path.write_text(json.dumps(content))


def _write_files(folder: Path, files: dict[str, bytes], notebook: str) -> None:
    r"""The other files of a submission, beside where its notebook was."""
    base = Path(notebook).parent
    for name, content in files.items():
        place = Path(archive.safe_name(name))
        place = place.relative_to(base) if place.is_relative_to(base) else place
        if place.suffix == ".ipynb":
            continue
        target = folder / place
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        except OSError as error:
            raise CourseError(f"a file of the submission cannot be staged: {error.strerror}") from error

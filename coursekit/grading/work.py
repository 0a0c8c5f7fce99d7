r"""What the judge does when it is asked: let a submission through the gate and stage it, make questions, mark."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coursekit.checks import every_kind
from coursekit.checks.numeric import Numeric
from coursekit.checks.training import MOST, Training, public_questions
from coursekit.errors import one_of
from coursekit.grading import gate, needs, verdict
from coursekit.grading import ids as ids_of
from coursekit.grading.inside.wire import encode_argument
from coursekit.paths import home


class Work:
    r"""`ids`: the exercises of the assignment; their secret cases are drawn once, at least one of each kind.

    Raises CourseError for an id that the checks do not know.
    """

    def __init__(self, secret: bytes, ids: list[str], cases: int) -> None:
        known = every_kind()
        for id in ids:
            one_of("exercise", id, known)
        self.ids = ids
        self.exercises = {id: known[id] for id in ids}
        self.trainings = {id: e for id, e in self.exercises.items() if isinstance(e, Training)}
        self.numeric = {id: e for id, e in self.exercises.items() if isinstance(e, Numeric)}
        # Made here: who reads a submission is a process of its own, and has little time.
        self.public = {id: [encode_argument(q) for q in public_questions(e)] for id, e in self.exercises.items()}
        self.asked: dict[str, list[Any]] = {id: [t.posing(secret)] for id, t in self.trainings.items()}
        for id, e in self.exercises.items():
            if id not in {*self.trainings, *self.numeric}:
                self.asked[id] = e.cases(secret, max(cases, e.kinds))

    def questions(self, path: str, ids: list[str]) -> None:
        r"""Write the questions of exercises `ids`, without answers, to `path`."""
        asked = {id: [[encode_argument(a) for a in case] for case in self._arguments(id)] for id in ids}
        Path(path).write_text(json.dumps(asked))

    def _arguments(self, id: str) -> list[tuple[Any, ...]]:
        r"""What the function is called with: whoever has numbers of his own has them already."""
        if id in self.numeric:
            return [()]
        return [one.arguments for one in self.asked[id]] if id in self.trainings else self.asked[id]

    def facts(self) -> dict[str, Any]:
        r"""Points of each exercise; seconds of each that trains; the folder of the models, there or not."""
        return {
            "points": {id: exercise.points for id, exercise in self.exercises.items()},
            "budgets": {id: training.seconds for id, training in self.trainings.items()},
            "models": str(home()),
        }

    def stage(
        self, path: str, stage: str, notebook: str, skip: list[int], ids: list[str], parameters: dict[str, Any],
        variant: int | None, handed_out: list[str], whole: bool, seconds: float,
    ) -> dict[str, Any]:  # fmt: skip
        r"""Look at a submission and write what the box is shown of it into `stage`, for the exercises `ids`.

        whole: the notebook as it came; else the slice that the exercises need. skip: leave out these cells, which
        ended a box. parameters: papermill's. variant: of whoever has numbers of his own. handed_out: hashes of the
        course's own cells. seconds: as in engine.run. Returns {"refused": message} or what was found of each exercise.
        """
        try:
            files, name, cells = gate.submitted(Path(path), notebook)
            cells = [cell for cell in cells if cell.kind == "code"]
            sources = [""] * (max((c.number for c in cells), default=0) + 1)
            for cell in cells:  # a set-up cell only finds the package, and the box has it
                if "setup" not in cell.tags and cell.number not in skip:
                    sources[cell.number] = cell.source
            names = {id: ids_of.function_name(id) for id in ids}
            out = [c.number for c in cells if ids_of.short_hash(c.source) in handed_out]
            found = needs.needed(sources, list(names.values()), out)
            shown = dict(enumerate(sources)) if whole else found.cells
            tags = {c.number: c.tags for c in cells}
            content = [
                {"source": source, "cell": n, "tags": [t for t in tags[n] if t == "parameters"]}
                for n, source in sorted(shown.items())
                if source.strip()
            ]
            folder = Path(stage)
            _write_notebook(folder / "notebook.ipynb", content)
            _write_files(folder / "files", files, name)
        except gate.Refused as refusal:
            return {"refused": str(refusal)}
        written = [*sources, *(c.decode("utf-8", "replace") for n, c in files.items() if n.endswith(".py"))]
        job = {
            "exercises": names,
            "trained": {id: MOST for id in self.trainings if id in names},
            "numbers": {id: dict(zip(e.given, e.own(variant or 0), strict=True)) for id, e in self.numeric.items()},
            "practice": self.public if any("practice" in text for text in written) else {},
            "looks": {id: ids_of.LOOKS[id][1] for id in names if id in ids_of.LOOKS},
            "parameters": parameters,
            "seconds": seconds,
        }
        (folder / "job.json").write_text(json.dumps(job))
        looked = {id: self._exercise(function, found, sources, written) for id, function in names.items()}
        hashes = {gate.shown(n): hashlib.sha256(content).hexdigest() for n, content in files.items()}
        return {"exercises": looked, "files": hashes}

    def mark(self, before: str, report: str, most: int, ids: list[str], variant: int | None) -> dict[str, Any]:
        r"""Read what came out of a box: {"run": ..., "exercises": {id: ...}} for those that were asked."""
        run = verdict.run_phase(verdict.harvest(Path(before), most))
        own = {id: [e.own(variant or 0)] for id, e in self.numeric.items() if id in ids}
        asked = {id: own[id] if id in own else self.asked[id] for id in ids}
        judged = {**self.exercises, **{id: e.asks for id, e in self.numeric.items()}}
        content = verdict.harvest(Path(report), most)
        return {"run": run, "exercises": verdict.probe_phase(content, judged, asked)}

    def _exercise(self, function: str, found: needs.Slice, sources: list[str], written: list[str]) -> dict[str, Any]:
        copies = found.copies[function]
        state: dict[str, Any] = {
            "copies": copies,
            "cells": found.needed[function],
            "blank": function in found.blank and not found.opaque,
            # Whether a run of the whole notebook could make another function of it.
            "hopeful": any(function in text for text in written)
            and function not in (found.certain if found.opaque else [*found.certain, *found.blank]),
            "status": None,
            "message": "",
        }
        if copies or found.opaque:
            return state
        here = [n for n in found.broken if re.search(rf"\bdef {function}\b|\b{function} *=", sources[n])]
        if here:
            return {**state, "copies": 1, "status": "error", "where": here[0], "message": found.broken[here[0]]}
        kind = "class" if function[:1].isupper() else "function"
        near = difflib.get_close_matches(function, set(found.functions), n=1, cutoff=0.6)
        meant = f"; did you name it {near[0][:60]}?" if near else ""
        return {**state, "status": "missing_name", "message": f"there is no {kind} called {function}{meant}"}


#: What the judge may be asked: the word that `Judge.ask` sends, and what answers it.
REQUESTS: dict[str, Callable[..., Any]] = {
    "facts": Work.facts,
    "stage": Work.stage,
    "questions": Work.questions,
    "mark": Work.mark,
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
    r"""The other files, beside where its notebook was. Raises gate.Refused where one cannot lie there."""
    base = Path(notebook).parent
    for name, content in files.items():
        place = Path(name).relative_to(base) if Path(name).is_relative_to(base) else Path(name)
        if place.suffix.lower() == ".ipynb":
            continue
        try:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content)
        except OSError as error:
            raise gate.Refused(
                f"its file {gate.shown(place.name)[:60]} cannot lie beside the notebook: {error.strerror}"
            ) from error

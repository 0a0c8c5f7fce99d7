r"""One submission through the chain: gate, stage, box, judge; what became of it as a dictionary."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coursekit.grading.judge import Crashed, Judge
from coursekit.grading.limits import Limits
from coursekit.grading.slots import Slot
from coursekit.grading.statuses import SAYS, gravest


@dataclass(frozen=True)
class Assignment:
    r"""What all submissions of a batch have in common. `ids`: of the exercises, in the notebook's order.

    `points` and `budgets` are the judge's to say. `parameters`: papermill's, for a complete run.
    """

    notebook: str
    ids: tuple[str, ...]
    limits: Limits
    box: str
    cases: int
    whole: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)
    points: dict[str, float] = field(default_factory=dict)
    #: Seconds of each exercise that trains.
    budgets: dict[str, float] = field(default_factory=dict)
    #: Whether every student has numbers of his own.
    variants: bool = False

    def groups(self) -> list[list[str]]:
        r"""The exercises by the box that they share: a training has one for itself."""
        asked = [id for id in self.ids if id not in self.budgets]
        return [*([asked] if asked else []), *([id] for id in self.ids if id in self.budgets)]


class Infrastructure(Exception):
    r"""The grader's own failure, never the student's."""


class Run:
    r"""The state of one submission on its way. `grade()` gives its result without the batch's fields."""

    def __init__(
        self, path: Path, assignment: Assignment, slot: Slot, judge: Judge, variant: int | None = None
    ) -> None:
        self.path, self.assignment, self.slot, self.judge = path, assignment, slot, judge
        self.variant = variant
        self.found: dict[str, dict[str, Any]] = {}
        self.looked: dict[str, dict[str, Any]] = {}
        self.files: dict[str, str] = {}
        self.times = dict.fromkeys(("gate", "box", "run", "probe", "verify"), 0.0)

    def grade(self) -> dict[str, Any]:
        r"""{"status", "message", "where", "exercises", "times"}. Raises Infrastructure."""
        complete = None
        for number, ids in enumerate(self.assignment.groups()):
            refused = self._gate([], ids)
            if refused is not None:
                return self._whole_result("invalid_notebook", refused)
            if number == 0 and self.assignment.whole:
                complete = self._complete()
                self._gate([], ids)
            self._group(ids)
        return self._result(complete=complete)

    def _group(self, ids: list[str]) -> None:
        r"""Settle the exercises that share a box, and are staged for it."""
        for id in ids:
            state = self.looked[id]
            if state["status"]:
                self._settle(id, state["status"], state["message"], where=state.get("where"))
            elif state["blank"] and id in self.assignment.budgets:  # no box for nothing
                self._settle(id, "not_attempted", SAYS["not_attempted"])
        skip: list[int] = []
        for attempt in range(2 * len(ids)):  # each settles one exercise or more
            pending = [id for id in ids if id not in self.found]
            if not pending:
                break
            if attempt:
                self._gate(skip, ids)
            cell = self._once(pending)
            skip += [] if cell is None else [cell]
        for id in ids:
            if id not in self.found:
                self._settle(id, "kernel_died", "the exercises before it kept killing the kernel")

    def _complete(self) -> tuple[str, str, int | None] | None:
        r"""Run the complete notebook; None where it came to its end, else status, message and cell."""
        self.slot.clear()
        limits, slot = self.assignment.limits, self.slot
        self._ask(
            "stage_whole", path=str(self.path), stage=str(slot.stage), notebook=self.assignment.notebook,
            parameters=self.assignment.parameters | ({} if self.variant is None else {"variant": self.variant}),
            most=limits.output,
        )  # fmt: skip
        slot.questions.write_text("")
        verdict = slot.run(0, run=limits.whole)
        if verdict["end"] == "infrastructure":
            raise Infrastructure(verdict.get("message", "") + verdict.get("trace", ""))
        self.times["whole"] = verdict["run"]
        most = limits.file + 2**20
        marked = self._read(
            "mark", before=str(slot.before), report=str(slot.report), most=most, ids=[], variant=None
        )
        run = marked["run"] if marked else {"whole": False, "cell": None, "failed": []}
        if verdict["end"] != "exit" or not run["whole"]:
            return *_ending(verdict), run["cell"]
        if run["failed"]:
            failed = run["failed"][0]
            return failed["status"], failed["message"], failed["cell"] or run["cell"]
        return None

    def _gate(self, skip: list[int], ids: list[str]) -> str | None:
        r"""Stage the submission; the reason, where it is refused."""
        begun = time.monotonic()
        self.slot.clear()
        looked = self._read(
            "gate",
            path=str(self.path),
            stage=str(self.slot.stage),
            notebook=self.assignment.notebook,
            skip=skip,
            ids=ids,
            variant=self.variant,
        )
        self.times["gate"] += time.monotonic() - begun
        if looked is None:
            return "the grader ran out of time or memory while reading it"
        if "refused" in looked:
            return looked["refused"]
        self.files = looked["files"]
        if not skip:
            self.looked |= looked["exercises"]
        return None

    def _once(self, pending: list[str]) -> int | None:
        r"""One box for the exercises that are left; returns the cell that ended it, if a cell did."""
        self._ask("questions", path=str(self.slot.questions), ids=pending)
        budget = self.assignment.budgets.get(pending[0])
        verdict = self.slot.run(
            len(pending), **({} if budget is None else {"exercise": budget, "probe": budget + 5})
        )
        if verdict["end"] == "infrastructure":
            raise Infrastructure(verdict.get("message", "") + verdict.get("trace", ""))
        for part in ("box", "run", "probe"):
            self.times[part] += verdict.get(part, 0.0)
        begun = time.monotonic()
        most = self.assignment.limits.file + 2**20
        marked = self._read(
            "mark",
            before=str(self.slot.before),
            report=str(self.slot.report),
            most=most,
            ids=pending,
            variant=self.variant,
        )
        if marked is None:
            for id in pending:
                self._settle(id, "invalid_output", SAYS["invalid_output"])
            return None
        self.times["verify"] += time.monotonic() - begun
        failed = {f["cell"]: f for f in reversed(marked["run"]["failed"])}
        if verdict["phase"] == "run":
            return self._ended_in_cell(pending, verdict, marked["run"]["cell"], failed)
        self._answered(pending, verdict, marked["exercises"], failed)
        return None

    def _ended_in_cell(
        self, pending: list[str], verdict: dict[str, Any], cell: int | None, failed: dict[int, dict[str, Any]]
    ) -> int | None:
        status, message = _ending(verdict)
        concerned = [id for id in pending if cell in self.looked[id]["cells"]] or pending
        for id in concerned:
            self._settle(id, status, message, where=cell)
        return cell

    def _answered(
        self,
        pending: list[str],
        verdict: dict[str, Any],
        exercises: dict[str, dict[str, Any]],
        failed: dict[int, dict[str, Any]],
    ) -> None:
        r"""Take what was answered; whoever was being asked when the box ended, ended it."""
        for id in pending:
            one = exercises.get(id)
            if one is None:
                break
            if not one["ended"] and one["status"] != "ok":
                status, message = _ending(verdict)
                self._settle(id, status, message, one["right"], one["cases"])
                return
            mine = [failed[n] for n in sorted(failed) if n in self.looked[id]["cells"]]
            if mine and one["status"] in ("missing_name", "error"):
                self._settle(id, mine[0]["status"], mine[0]["message"], where=mine[0]["cell"])
            else:
                told = (one["status"], one["message"], one["right"], one["cases"])
                self._settle(id, *told, share=one.get("share"), measured=one.get("measured"))
        if not exercises:
            self._settle(pending[0], *_ending(verdict))

    def _settle(
        self,
        id: str,
        status: str,
        message: str,
        right: int = 0,
        cases: int = 0,
        where: int | None = None,
        share: float | None = None,
        measured: float | None = None,
    ) -> None:
        training = id in self.assignment.budgets
        cases, of = cases or (1 if training else self.assignment.cases), self.assignment.points[id]
        share = right / cases if share is None else share
        name = id.replace("-", "_")
        if status == "missing_name" and not message:
            message = f"there is no function called {name}"
        self.found[id] = {
            "id": id, "points": round(of * share, 2), "of": of, "status": status,
            "message": message or SAYS[status], "cases": cases, "right": right,
            "copies": self.looked.get(id, {}).get("copies", 0), "where": where,
            "ran": "training" if training else "questions", "measured": measured,
        }  # fmt: skip

    def _whole_result(self, status: str, message: str) -> dict[str, Any]:
        for id in self.assignment.ids:
            self._settle(id, status, message)
        return self._result(status, message)

    def _result(
        self,
        status: str | None = None,
        message: str | None = None,
        complete: tuple[str, str, int | None] | None = None,
    ) -> dict[str, Any]:
        exercises = [self.found[id] for id in self.assignment.ids]
        status = status or gravest(e["status"] for e in exercises)
        speaking = next((e for e in exercises if e["status"] == status), exercises[0])
        where = speaking.pop("where")
        for exercise in exercises:
            exercise.pop("where", None)
        if message is None:
            place = f"cell {where}" if where else speaking["id"]
            message = "everything is correct" if status == "ok" else f"{place}: {speaking['message']}"
        if complete is not None and gravest([status, complete[0]]) == complete[0]:
            status, said, cell = complete
            message = f"cell {cell}: {said}" if cell else said
            where = cell or where
        where = (
            (f"cell {where}" if where else speaking["id"])
            if status not in ("ok", "invalid_notebook")
            else None
        )
        return {
            "status": status, "message": message, "where": where,
            "exercises": exercises, "files": self.files, "times": {k: round(v, 4) for k, v in self.times.items()},
        }  # fmt: skip

    def _read(self, what: str, **given: Any) -> Any:
        r"""Ask the judge to read what a stranger wrote; None where that ends the judge's helper."""
        try:
            return self.judge.ask(what, **given)
        except Crashed:
            return None
        except RuntimeError as error:
            raise Infrastructure(str(error)) from error

    def _ask(self, what: str, **given: Any) -> Any:
        try:
            return self.judge.ask(what, **given)
        except RuntimeError as error:
            raise Infrastructure(str(error)) from error


def _ending(verdict: dict[str, Any]) -> tuple[str, str]:
    r"""Status and message of a box that ended before its work was done."""
    end, code = verdict["end"], verdict.get("code")
    if end != "exit":
        return end, SAYS[end]
    how = {
        -11: "a segmentation fault",
        -9: "it was killed",
        -6: "it aborted",
        -24: "it used up its CPU time",
    }
    return "kernel_died", f"the kernel died: {how.get(code, f'it ended with status {code}')}"

r"""One submission through the chain: gate, stage, box, judge; what became of it as a dictionary."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coursekit.grading.bwrap_runner import BwrapRunner
from coursekit.grading.ids import function_name
from coursekit.grading.judge import Crashed, Judge
from coursekit.grading.limits import Limits
from coursekit.grading.statuses import SAYS, gravest

SCHEMA = 1
#: Runs of a whole notebook for one submission's sake: a cell that ends the box is left out of the next.
MOST_WHOLE = 3
#: Statuses that another exercise of the same box may have brought about.
SHARED = ("error", "output_limit", "disk_limit", "process_limit", "memory_limit")


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
    #: papermill's, for the quick run of the whole notebook where an exercise is not right.
    smoke: dict[str, Any] = field(default_factory=dict)
    #: Hashes of the cells of the course's own notebook.
    handed_out: list[str] = field(default_factory=list)

    def groups(self) -> list[list[str]]:
        r"""The exercises by the box that they share: those that are asked, those that train."""
        both = [[id for id in self.ids if (id in self.budgets) == trains] for trains in (False, True)]
        return [ids for ids in both if ids]

    def result(self, line: dict[str, Any], found: dict[str, Any] | None) -> dict[str, Any]:
        r"""What is stored of a line of the manifest. found: as `Run.grade` gives it; None where the grader failed
        twice: no mark, and nobody's fault but the grader's. Two runs give the same bytes but for `times`.
        """
        failed = {"status": "infrastructure", "message": SAYS["infrastructure"]}
        if found is None:  # what there was to earn is 0 where the checks, which say it, could not be loaded
            exercises = [
                {"id": id, "points": 0, "of": self.points.get(id, 0), **failed, "cases": self.cases, "right": 0,
                 "copies": 0, "ran": "training" if id in self.budgets else "questions", "measured": None}
                for id in self.ids
            ]  # fmt: skip
            found = {**failed, "where": None, "exercises": exercises, "files": {}, "times": {}}
        return {
            "schema": SCHEMA,
            "submission": line["submission"],
            "notebook": line["notebook"],
            "key": line["key"],
            "ran": "whole" if self.whole else "exercises",
            "box": self.box,
            "unsafe": self.box == "none",
            **found,
        }


class Infrastructure(RuntimeError):
    r"""The grader's own failure, never the student's; so is every other RuntimeError here."""


class Run:
    r"""The state of one submission on its way. `grade()` gives its result without the batch's fields."""

    def __init__(
        self, path: Path, assignment: Assignment, slot: BwrapRunner, judge: Judge, variant: int | None = None
    ) -> None:
        self.path, self.assignment, self.slot, self.judge = path, assignment, slot, judge
        self.variant = variant
        self.found: dict[str, dict[str, Any]] = {}
        self.looked: dict[str, dict[str, Any]] = {}
        self.files: dict[str, str] = {}
        self.times = dict.fromkeys(("gate", "box", "run", "probe", "verify"), 0.0)

    def grade(self) -> dict[str, Any]:
        r"""{"status", "message", "where", "exercises", "times"}. Raises RuntimeError where the grader itself fails."""
        complete = None
        for number, ids in enumerate(self.assignment.groups()):
            refused = self._gate([], ids)
            if refused is not None:
                for id in self.assignment.ids:
                    self._settle(id, "invalid_notebook", refused)
                return self._result("invalid_notebook", refused)
            if number == 0 and self.assignment.whole:
                complete = self._complete()
                self._gate([], ids)
            self._group(ids)
            for id in ids if len(ids) > 1 else ():
                if self.found[id]["status"] in SHARED:
                    self._alone(id)
            self._again([id for id in ids if self.found[id]["status"] != "ok"])
        return self._result(complete=complete)

    def _alone(self, id: str) -> None:
        r"""Ask an exercise in a box of its own: what others left in the one that they share is not its fault."""
        before = self.found.pop(id)
        self._gate([], [id])
        self._group([id])
        if self.found[id]["points"] <= before["points"]:
            self.found[id] = before

    def _again(self, ids: list[str]) -> None:
        r"""Run the notebook whole, quickly, for exercises that are not right after the slice; the better answer counts.

        What the exercises need is found by names, and a notebook may bind them in ways that cannot be read off it.
        """
        hopeful = [id for id in ids if self.looked[id]["hopeful"]]
        before, kept = self.found, {id: e for id, e in self.found.items() if id not in hopeful}
        found: dict[str, dict[str, Any]] = {}
        skip: list[int] = []
        for _ in range(MOST_WHOLE):
            if not (pending := [id for id in hopeful if id not in found]):
                break
            self.found = dict(kept)
            refused = self._gate(skip, hopeful, self.assignment.smoke, self.assignment.limits.again)
            if refused is not None:
                break
            cell = self._once(pending, again=True)
            if cell is not None:
                skip.append(cell)
            else:
                found |= {id: self.found[id] for id in pending if id in self.found}
        self.found = before
        for id, one in found.items():
            if one["points"] > before[id]["points"]:
                self.found[id] = {**one, "ran": "notebook"}

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
        r"""Run the complete notebook; None where every cell did, else status, message and cell of the first trouble."""
        limits, slot = self.assignment.limits, self.slot
        self._gate([], list(self.assignment.ids), self.assignment.parameters)
        slot.questions.write_text("{}")
        verdict = slot.run(0, run=limits.whole)
        if verdict["end"] == "infrastructure":
            raise Infrastructure(verdict.get("message", "") + verdict.get("trace", ""))
        self.times["whole"] = verdict["run"]
        marked = self._mark([])
        run = marked["run"] if marked else {"cell": None, "failed": []}
        if verdict["phase"] == "run":
            return *_ending(verdict), run["cell"]
        return next(((f["status"], f["message"], f["cell"]) for f in run["failed"]), None)

    def _mark(self, ids: list[str]) -> Any:
        return self._read(
            "mark", before=str(self.slot.before), report=str(self.slot.report),
            most=self.assignment.limits.file + 2**20, ids=ids, variant=self.variant,
        )  # fmt: skip

    def _gate(
        self, skip: list[int], ids: list[str], whole: dict[str, Any] | None = None, seconds: float = 0.0
    ) -> str | None:
        r"""Stage the submission, its slice or with the parameters `whole` the whole; why, where it is refused."""
        begun = time.monotonic()
        self.slot.clear()
        looked = self._read(
            "stage",
            path=str(self.path),
            stage=str(self.slot.stage),
            notebook=self.assignment.notebook,
            skip=skip,
            ids=ids,
            parameters=(whole or {}) | ({} if self.variant is None else {"variant": self.variant}),
            variant=self.variant,
            handed_out=self.assignment.handed_out,
            whole=whole is not None,
            seconds=seconds,
        )
        self.times["gate"] += time.monotonic() - begun
        if looked is None:
            return "the grader ran out of time or memory while reading it"
        if "refused" in looked:
            return looked["refused"]
        self.files = looked["files"]
        if not skip and whole is None:
            self.looked |= looked["exercises"]
        return None

    def _once(self, pending: list[str], again: bool = False) -> int | None:
        r"""One box for the exercises that are left; returns the cell that ended it, if a cell did."""
        self.judge.ask("questions", path=str(self.slot.questions), ids=pending)
        budgets = [self.assignment.budgets[id] for id in pending if id in self.assignment.budgets]
        limits = {"exercise": max(budgets), "probe": sum(budgets) + 5} if budgets else {}
        limits |= {"run": self.assignment.limits.again} if again else {}
        verdict = self.slot.run(len(pending), **limits)
        if verdict["end"] == "infrastructure":
            raise Infrastructure(verdict.get("message", "") + verdict.get("trace", ""))
        for part in ("box", "run", "probe"):
            self.times[part] += verdict.get(part, 0.0)
        begun = time.monotonic()
        marked = self._mark(pending)
        if marked is None:
            for id in pending:
                self._settle(id, "invalid_output", SAYS["invalid_output"])
            return None
        self.times["verify"] += time.monotonic() - begun
        failed = {f["cell"]: f for f in reversed(marked["run"]["failed"])}
        if verdict["phase"] == "run":
            return self._ended_in_cell(pending, verdict, marked["run"]["cell"])
        self._answered(pending, verdict, marked["exercises"], failed)
        return None

    def _ended_in_cell(self, pending: list[str], verdict: dict[str, Any], cell: int | None) -> int | None:
        status, message = _ending(verdict)
        concerned = [id for id in pending if cell in self.looked[id]["cells"]] or pending
        for id in concerned:
            self._settle(id, status, message, where=cell)
        return cell

    def _answered(
        self, pending: list[str], verdict: dict[str, Any], exercises: dict[str, dict[str, Any]],
        failed: dict[int, dict[str, Any]],
    ) -> None:  # fmt: skip
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
        self, id: str, status: str, message: str, right: int = 0, cases: int = 0, where: int | None = None,
        share: float | None = None, measured: float | None = None,
    ) -> None:  # fmt: skip
        training = id in self.assignment.budgets
        cases, of = cases or (1 if training else self.assignment.cases), self.assignment.points[id]
        share = right / cases if share is None else share
        if status == "missing_name" and not message:
            message = f"there is nothing called {function_name(id)}"
        self.found[id] = {
            "id": id, "points": round(of * share, 2), "of": of, "status": status,
            "message": message or SAYS[status], "cases": cases, "right": right,
            "copies": self.looked.get(id, {}).get("copies", 0), "where": where,
            "ran": "training" if training else "questions", "measured": measured,
        }  # fmt: skip

    def _result(
        self, status: str | None = None, message: str | None = None, complete: tuple[str, str, int | None] | None = None
    ) -> dict[str, Any]:
        exercises = [self.found[id] for id in self.assignment.ids]
        status = status or gravest(e["status"] for e in exercises)
        speaking = next((e for s in (status, "not_attempted") for e in exercises if e["status"] == s), exercises[0])
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
        where = (f"cell {where}" if where else speaking["id"]) if status not in ("ok", "invalid_notebook") else None
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


def _ending(verdict: dict[str, Any]) -> tuple[str, str]:
    r"""Status and message of a box that ended before its work was done."""
    end, code = verdict["end"], verdict.get("code")
    if end != "exit":
        return end, SAYS[end]
    how = {-11: "a segmentation fault", -9: "it was killed", -6: "it aborted", -24: "it used up its CPU time"}
    return "kernel_died", f"the kernel died: {how.get(code, f'it ended with status {code}')}"

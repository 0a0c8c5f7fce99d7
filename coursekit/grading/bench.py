r"""Where one process grades: a judge, and as many slots as there are submissions at the same time."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from coursekit.grading import boxes, package, pseudonyms
from coursekit.grading.bwrap_runner import BwrapRunner
from coursekit.grading.container_runner import ContainerRunner
from coursekit.grading.folder import Batch
from coursekit.grading.judge import Judge, Unusable
from coursekit.grading.one import Run
from coursekit.grading.plan import read_assignment
from coursekit.grading.remote_runner import RemoteRunner


class Stopped(Exception):
    r"""The batch was stopped while this submission was on its way: it has no result."""


class Bench:
    r"""`grade(line)` gives the result of one line of the manifest and stores it. May be shared by threads."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.assignment, self.preload = read_assignment(batch)
        self.judge = Judge(batch.secret(), list(self.assignment.ids), self.assignment.cases)
        facts = self.judge.ask("facts")
        self.assignment = replace(self.assignment, points=facts["points"], budgets=facts["budgets"])
        if self.assignment.budgets:
            self.preload = [*self.preload, "import coursekit.models.load, transformers.models.bert.modeling_bert"]
        batch.work.mkdir(mode=0o711, exist_ok=True)
        self.work = batch.work / f"{os.uname().nodename[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
        self.work.mkdir(mode=0o711)
        self.work.chmod(0o711)
        self.lib = package.copy_package(self.work / "lib")
        boxes.write_users(self.lib)
        models = Path(facts["models"])
        self.models = models if models.is_dir() else None
        self._lock, self._idle, self._all = threading.Lock(), [], []
        self.stopping = False

    def grade(self, line: dict[str, Any]) -> dict[str, Any]:
        r"""Once more where the grader itself failed; the second failure is the result."""
        self.batch.event("begin", submission=line["submission"], key=line["key"])
        for attempt in (1, 2):
            try:
                with self._slot() as slot:
                    run = Run(Path(line["path"]), self.assignment, slot, self.judge, self._variant(line))
                    result = self.assignment.result(line, run.grade())
                break
            except (RuntimeError, OSError) as failure:
                if self.stopping:
                    raise Stopped from failure
                self.batch.event(
                    "infrastructure", submission=line["submission"], attempt=attempt, why=str(failure)[-2000:]
                )
                result = self.assignment.result(line, None)
        if self.stopping:
            raise Stopped
        self.batch.write_result(result)
        self.batch.event("end", submission=line["submission"], key=line["key"], status=result["status"])
        return result

    def _variant(self, line: dict[str, Any]) -> int | None:
        if not self.assignment.variants:
            return None
        return pseudonyms.variant(self.batch.secret(), line.get("group") or line["submission"])

    def stop(self) -> None:
        r"""End what is running; its submissions get no result."""
        self.stopping = True
        for slot in [*self._all]:
            slot.stop()

    def close(self) -> None:
        r"""End all processes, and take away the folder they worked in."""
        self.stopping = True
        for slot in self._all:
            slot.close()
        self.judge.close()
        shutil.rmtree(self.work, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.batch.work.rmdir()

    @contextlib.contextmanager
    def _slot(self) -> Any:
        with self._lock:
            if self.stopping:
                raise Stopped
            if self._idle:
                slot = self._idle.pop()
            else:
                hidden = [self.batch.out]
                limits = self.assignment.limits
                given = (len(self._all), self.work, self.lib, limits, self.preload, hidden, self.models)
                if self.assignment.box == "bwrap":
                    slot = BwrapRunner(*given)
                elif self.assignment.box == "runner":
                    slot = RemoteRunner(*given)
                else:
                    slot = ContainerRunner(self.assignment.box, *given)
                self._all.append(slot)
        try:
            yield slot
        except (RuntimeError, OSError):
            slot.stop()  # whatever state it is in
            raise
        finally:
            with self._lock:
                self._idle.append(slot)


_BENCHES: dict[tuple[int, str], Bench | Unusable] = {}
_GUARD = threading.Lock()


def bench(out: Path) -> Bench:
    r"""This process's bench for the batch in `out`. Raises Unusable, after the first time without trying."""
    with _GUARD:
        key = (os.getpid(), str(out))
        if key not in _BENCHES:
            try:
                _BENCHES[key] = Bench(Batch(out))
            except Unusable as failure:
                _BENCHES[key] = failure
            atexit.register(close, out)
        found = _BENCHES[key]
    if isinstance(found, Unusable):
        raise found
    return found


def is_open(out: Path) -> bool:
    r"""Whether this process has a bench for the batch in `out`."""
    return (os.getpid(), str(out)) in _BENCHES


def stop(out: Path) -> None:
    r"""End what this process runs for the batch in `out`."""
    with _GUARD:
        found = _BENCHES.get((os.getpid(), str(out)))
    if isinstance(found, Bench):
        found.stop()


def close(out: Path) -> None:
    r"""Close this process's bench, where it has one."""
    with _GUARD:
        found = _BENCHES.pop((os.getpid(), str(out)), None)
    if isinstance(found, Bench):
        found.close()


def grade_index(out: str, index: int) -> dict[str, Any]:
    r"""Grade one line of the manifest: what an executor is given, in this process or another."""
    batch = Batch(Path(out))
    line = batch.lines()[index]
    try:
        return bench(batch.out).grade(line)
    except Unusable as failure:
        batch.event("infrastructure", submission=line["submission"], attempt=1, why=str(failure)[-2000:])
        result = read_assignment(batch)[0].result(line, None)
        batch.write_result(result)
        return result

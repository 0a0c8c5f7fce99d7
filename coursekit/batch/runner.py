r"""Batches of notebooks through papermill, each in a process of its own: one that fails stops no other.

A notebook is "ok" when papermill says so *and* every code cell was executed: papermill exits with 0 after a
`sys.exit(0)` in a cell, with the cells below it not run.

Results are kept. A notebook that was ok and whose inputs are the same (its cells, the parameters, the files beside
it, the package's source, the data files, the libraries) is not run again: a batch that was stopped goes on.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from coursekit import errors
from coursekit.batch import inputs, share
from coursekit.batch.inputs import Job
from coursekit.batch.processes import Watched, watch
from coursekit.batch.report import REPORTS, Result, page_of, read_summary, summary_files
from coursekit.errors import CourseError
from coursekit.files import Folder, same
from coursekit.notebook import parameters as params

#: A page above this many bytes opens in no browser, and making it takes ten times as much memory.
_LARGEST_PAGE = 100_000_000
_PAPERMILL = Path(__file__).with_name("start_papermill.py")


def run_notebooks(
    paths: Iterable[str | Path], out: str | Path = "runs", profile: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None, *, force: bool = False, timeout: float | None = None,
    jobs: int | None = 1,
) -> list[Result]:  # fmt: skip
    r"""Runs the notebooks; returns their results in the same order.

    out: folder that gets the executed notebooks, an HTML page of each, `summary.json` and `index.html`.
    profile: a name in the notebooks' `profiles` folder, or a papermill parameter file.
    parameters: override the profile; each goes to the notebooks that know its name.
    force: run finished notebooks again. timeout: minutes a notebook may take. jobs: notebooks at a time; None for
    as many as `share` finds room for.

    Raises CourseError, before a kernel is started and anything is written, for a missing file, an unknown profile or
    parameter name, a value of the wrong type, and where a file in `out` that no run wrote would be overwritten: a
    notebook in its own folder first of all. Ctrl-C ends the running notebooks and keeps what is finished.
    """
    if timeout is not None:
        errors.number("timeout", timeout, above=0, such_as=10)
    if jobs is not None:
        jobs = errors.whole("jobs", jobs, least=1, such_as=2)
    planned = inputs.plan([Path(p) for p in paths], profile, dict(parameters or {}))
    folder = Folder(out)
    _refuse_to_harm(folder, [job.path for job in planned])
    jobs = share.jobs_that_fit(len(planned)) if jobs is None else jobs
    with folder.opened():
        name = None if profile is None else Path(profile).stem
        batch = _Batch(folder, name, len(planned), timeout, bar=jobs == 1 and sys.stderr.isatty())
        return batch.run(planned, force, jobs)


def _refuse_to_harm(folder: Folder, notebooks: list[Path]) -> None:
    r"""CourseError, and nothing touched, if results of `notebooks` would overwrite them or somebody's own files."""
    for notebook in notebooks:
        if same(folder.path, notebook.absolute().parent):
            raise CourseError(
                f"{folder.path} is the folder of {notebook.name} itself, which its result would overwrite: "
                "choose another folder for the results, such as runs"
            )
        if notebook.stem == Path(REPORTS[1]).stem:
            raise CourseError(f"the page of {notebook.name} would be {REPORTS[1]}, the batch's own: rename it")
    names = [name for notebook in notebooks for name in (notebook.name, f"{notebook.stem}.html")]
    folder.refuse_to_harm([*names, *REPORTS], notebooks)


class _Batch:
    r"""One call of `run_notebooks`: what is known of each notebook by now. Only the main thread changes it."""

    def __init__(self, folder: Folder, profile: str | None, total: int, timeout: float | None, bar: bool):
        self.folder, self.profile, self.total, self.timeout, self.bar = folder, profile, total, timeout, bar
        self.known = read_summary(folder.path)
        self.stop = threading.Event()
        self.unwritten, self.env, self.done = "", dict[str, str](), False

    def run(self, planned: list[Job], force: bool, workers: int) -> list[Result]:
        done: dict[Path, Result] = {}
        self.env = os.environ | {"OMP_NUM_THREADS": share.threads(workers), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        waiting, running = list(enumerate(planned, start=1)), dict[Future[Result], tuple[int, Job]]()
        with ThreadPoolExecutor(workers) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < workers:
                        number, job = waiting.pop(0)
                        before = self.known.pop(job.path.name, None)
                        if before and not force and self._still_good(before, job):
                            self.known[job.path.name] = done[job.path] = self._with_page(before)
                            self.done = len(done) == len(planned)
                            _say(f"{self._where(number, job)}: unchanged, ok in {before.minutes:.1f} min before")
                            self._write_summary()
                        else:
                            self._write_summary()  # a stopped run must not pass for the old result
                            _say(f"{self._where(number, job)} ...")
                            running[pool.submit(self._executed, job)] = number, job
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        number, job = running.pop(future)
                        result = self._kept(job, future.result())
                        self.known[job.path.name] = done[job.path] = result
                        self.done = len(done) == len(planned)
                        self._write_summary()
                        memory = f"{result.minutes:.1f} min, {result.peak_memory / 1e9:.2f} GB"
                        _say(f"{self._where(number, job)}: {result.status} in {memory}  {result.message}".rstrip())
            finally:
                self.stop.set()  # ends what is running where this was left by Ctrl-C
        if self.unwritten:
            raise CourseError(self.unwritten)
        return [done[job.path] for job in planned]

    def _where(self, number: int, job: Job) -> str:
        return f"[{number}/{self.total}] {job.path.name}"

    def _still_good(self, before: Result, job: Job) -> bool:
        r"""Whether the result is there, whole, and what it came from is as it was."""
        return (
            before.ok
            and before.key == job.key
            and inputs.same_beside(before.beside, job)
            and self.folder.holds(before.executed)
        )

    def _with_page(self, result: Result) -> Result:
        r"""The same result, with its page made anew where that is gone."""
        return result if result.page and self.folder.holds(result.page) else self._paged(result)

    def _part(self, job: Job) -> Path:
        return self.folder.path / f".{job.path.stem}.part.ipynb"

    def _executed(self, job: Job) -> Result:
        r"""One notebook through papermill. (In a thread of its own.)"""
        if job.invalid:
            return Result(job.path.name, "invalid", job.invalid, key=job.key)
        try:
            return self._through_papermill(job)
        except OSError as error:  # no room for the parameters, or no process to be had
            return Result(job.path.name, "failed", f"cannot run it: {error.strerror}", key=job.key)

    def _through_papermill(self, job: Job) -> Result:
        part = self._part(job)
        seconds = None if self.timeout is None else self.timeout * 60
        with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as log:
            part.unlink(missing_ok=True)
            file = Path(scratch, "parameters.yaml")
            file.write_text(params.as_yaml(job.given), encoding="utf-8")
            command = [sys.executable, "-P", str(_PAPERMILL), _argument(job.path), _argument(part)]
            # This Python's kernel, whatever the notebook was last saved with.
            command += ["--kernel", "python3", "--language", "python", "--cwd", str(job.path.absolute().parent)]
            command += ["--progress-bar" if self.bar else "--no-progress-bar", "--log-level", "WARNING"]
            command += ["--parameters_file", str(file)] if job.given else []
            watched = watch(command, env=self.env, timeout=seconds, stop=self.stop, log=None if self.bar else log)
            return replace(_judge(job, part, watched, _last_line(log)), beside=job.beside)

    def _kept(self, job: Job, result: Result) -> Result:
        r"""What was executed in its place, and its page. A disk that is full fails this notebook and no other."""
        part = self._part(job)
        if job.invalid or not part.exists():
            return result
        try:
            self.folder.put(job.path.name, part)
        except (OSError, CourseError) as error:
            why = f"cannot write {job.path.name}: {error.strerror}" if isinstance(error, OSError) else str(error)
            return replace(result, status="failed", message=why)
        return self._paged(replace(result, executed=job.path.name))

    def _paged(self, result: Result) -> Result:
        executed = self.folder.path / result.executed
        name = executed.with_suffix(".html").name
        try:
            if executed.stat().st_size > _LARGEST_PAGE:
                raise CourseError("its outputs are too large")
            self.folder.put_text(name, page_of(executed))
        except Exception as error:  # a page that cannot be made is no reason to lose the batch
            _say(f"no HTML page for {result.notebook}: {type(error).__name__}: {error}")
            return replace(result, page="")
        return replace(result, page=name)

    def _write_summary(self) -> None:
        r"""A disk that is full now may have room when the next notebook is done."""
        try:
            for name, text in summary_files(self.known.values(), self.profile, self.done).items():
                self.folder.put_text(name, text)
            self.unwritten = ""
        except OSError as error:
            self.unwritten = f"cannot write the summary to {self.folder.path}: {error.strerror}"


def _argument(path: Path) -> str:
    r"""`path` on papermill's command line: braces are its own, and what begins with a dash is an option."""
    text = params.escaped(path)
    return f"./{text}" if text.startswith("-") else text


def _judge(job: Job, executed: Path, watched: Watched, said: str) -> Result:
    r"""The status: papermill's exit code, and what really was executed. said: papermill's last words, if known."""
    measured: dict[str, Any] = {
        "minutes": round(watched.seconds / 60, 3), "cpu_minutes": round(watched.cpu_seconds / 60, 3),
        "peak_memory": watched.peak_bytes, "key": job.key,
    }  # fmt: skip
    cells: list[Any] = []
    if executed.exists():
        try:
            cells = inputs.code_cells(executed)
        except CourseError as error:
            return Result(job.path.name, "failed", said or str(error), **measured)
    run = [c for c in cells if c.execution_count is not None]
    measured |= {"cells": len(cells), "cells_run": len(run)}
    if watched.timed_out:
        last = f"in code cell {len(run) + 1}" if cells else "before its first cell"
        return Result(job.path.name, "timeout", f"stopped {last}", **measured)
    if watched.returncode != 0:
        return Result(job.path.name, "failed", _what_failed(cells, watched.returncode, said), **measured)
    if not cells or len(run) < len(cells):
        message = f"only {len(run)} of {len(cells)} code cells were executed"
        return Result(job.path.name, "incomplete", message, **measured)
    return Result(job.path.name, "ok", **measured)


def _what_failed(cells: list[Any], returncode: int, said: str) -> str:
    for number, cell in enumerate(cells, start=1):
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                first = (output.evalue or "").strip().splitlines()
                return f"code cell {number}: {output.ename}: {first[0] if first else ''}".rstrip(": ")
    if returncode == 138:  # papermill's code for it
        return "the kernel died"
    return f"papermill ended with status {returncode}" + (f": {said}" if said else "")


def _last_line(log: Any) -> str:
    log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
    lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


def _say(line: str) -> None:
    r"""To the terminal. Where nobody listens any more (`| head -1`), the batch goes on all the same."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)

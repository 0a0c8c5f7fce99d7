r"""Batches of notebooks through papermill, each in a process of its own: one that fails stops no other.

A notebook is "ok" when papermill says so *and* every code cell was executed: papermill exits with 0 after a
`sys.exit(0)` in a cell, with the cells below it not run.

Results are kept. A notebook that was ok and whose inputs are the same (its cells, the parameters, the
package's source, the data files, the libraries) is not run again: a batch that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import coursekit
from coursekit.batch.processes import Watched, watch
from coursekit.batch.report import Result, read_summary, write_page, write_summary
from coursekit.errors import CourseError, unknown
from coursekit.notebook import parameters as params
from coursekit.paths import DATA

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "bitsandbytes")


@dataclass(frozen=True)
class _Job:
    r"""One notebook, what it is to be given, and the fingerprint of everything its result depends on."""

    path: Path
    given: dict[str, Any]
    key: str
    invalid: str = ""


def run_notebooks(
    paths: Iterable[str | Path],
    out: str | Path = "runs",
    profile: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
    timeout: float | None = None,
) -> list[Result]:
    r"""Runs the notebooks one after the other; returns their results in the same order.

    out: folder that gets the executed notebooks, an HTML page of each, `summary.json` and `index.html`.
    profile: a name in the notebooks' `profiles` folder, or a papermill parameter file.
    parameters: override the profile; each goes to the notebooks that know its name.
    force: run finished notebooks again. timeout: minutes a notebook may take.

    Raises CourseError, before a kernel is started, for a missing file, an unknown profile or parameter name
    and a value of the wrong type. Ctrl-C ends the running notebook and keeps what is finished.
    """
    jobs = _plan([Path(p) for p in paths], profile, dict(parameters or {}))
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    name = None if profile is None else Path(profile).stem
    with _alone(out):
        known = read_summary(out)
        done: list[Result] = []
        for number, job in enumerate(jobs, start=1):
            say = f"[{number}/{len(jobs)}] {job.path.name}"
            before = known.pop(job.path.name, None)
            if before and not force and _still_good(before, job, out):
                result = before
                _say(f"{say}: unchanged, ok in {before.minutes:.1f} min before")
            else:
                write_summary(out, known.values(), name)  # a stopped run must not pass for the old result
                _say(f"{say} ...")
                result = _run(job, out, timeout)
                memory = f"{result.peak_memory / 1e9:.2f} GB"
                _say(
                    f"{say}: {result.status} in {result.minutes:.1f} min, {memory}  {result.message}".rstrip()
                )
            known[job.path.name] = result
            done.append(result)
            write_summary(out, known.values(), name)
    return done


def _plan(paths: list[Path], profile: str | Path | None, explicit: dict[str, Any]) -> list[_Job]:
    r"""Checks everything that can be checked without a kernel."""
    if not paths:
        raise CourseError("there are no notebooks to run")
    seen: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise CourseError(f"there is no notebook {path}")
        if seen.setdefault(path.name, path) is not path:
            raise CourseError(
                f"{seen[path.name]} and {path} would both become {path.name}: run them one by one"
            )
    jobs, everything = [], set()
    world = _fingerprint_of_the_world()
    for path in paths:
        file, shared = params.read_profile(profile, path.parent)
        invalid, cells, kinds = "", [], {}
        try:
            cells = _cells(path)
            kinds = params.defaults(path)
        except CourseError as error:
            invalid = str(error)
        everything |= kinds.keys()
        own = {k: v for k, v in explicit.items() if k in kinds}
        for source, values in ((f"{file.name} for {path.name}" if file else "", shared), (path.name, own)):
            params.check(kinds, values, source)
        # What the notebook does not know would only make papermill warn: a profile serves all notebooks.
        given = {k: v for k, v in (shared | own).items() if k in kinds}
        jobs.append(_Job(path, given, _digest([world, cells, given]), invalid))
    for name in explicit:
        if name not in everything and not any(job.invalid for job in jobs):
            raise unknown("parameter", name, everything)
    return jobs


def _run(job: _Job, out: Path, timeout: float | None) -> Result:
    r"""One notebook through papermill, then its page."""
    name = job.path.name
    if job.invalid:
        return Result(name, "invalid", job.invalid, key=job.key)
    part, final = out / f".{job.path.stem}.part.ipynb", out / name
    for old in (part, final, final.with_suffix(".html")):
        old.unlink(missing_ok=True)
    command = [sys.executable, "-m", "papermill", params.escaped(job.path), params.escaped(part)]
    # This Python's kernel, whatever the notebook was last saved with.
    command += ["--kernel", "python3", "--language", "python", "--cwd", str(job.path.parent)]
    command += ["--progress-bar", "--log-level", "WARNING"]
    if job.given:
        command += ["--parameters_yaml", json.dumps(job.given)]  # JSON is YAML, and keeps every type
    env = os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    seconds = None if timeout is None else timeout * 60
    watched = watch(command, env=env, timeout=seconds)
    result = _judge(job, part, watched)
    if part.exists():
        os.replace(part, final)
        result = replace(result, executed=name)
        try:
            result = replace(result, page=write_page(final).name)
        except Exception as error:  # a page that cannot be made is no reason to lose the batch
            _say(f"no HTML page for {name}: {type(error).__name__}: {error}")
    return result


def _judge(job: _Job, executed: Path, watched: Watched) -> Result:
    r"""The status: papermill's exit code, and what really was executed."""
    measured = {"minutes": round(watched.seconds / 60, 3), "peak_memory": watched.peak_bytes, "key": job.key}
    cells: list[Any] = []
    if executed.exists():
        try:
            cells = _code_cells(executed)
        except CourseError as error:
            return Result(job.path.name, "failed", str(error), **measured)
    run = [c for c in cells if c.execution_count is not None]
    measured |= {"cells": len(cells), "cells_run": len(run)}
    if watched.timed_out:
        last = f"in code cell {len(run) + 1}" if cells else "before its first cell"
        return Result(job.path.name, "timeout", f"stopped {last}", **measured)
    if watched.returncode != 0:
        return Result(job.path.name, "failed", _what_failed(cells, watched.returncode), **measured)
    if not cells or len(run) < len(cells):
        message = f"only {len(run)} of {len(cells)} code cells were executed"
        return Result(job.path.name, "incomplete", message, **measured)
    return Result(job.path.name, "ok", **measured)


def _what_failed(cells: list[Any], returncode: int) -> str:
    for number, cell in enumerate(cells, start=1):
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                first = (output.evalue or "").strip().splitlines()
                return f"code cell {number}: {output.ename}: {first[0] if first else ''}".rstrip(": ")
    if returncode == 138:  # papermill's code for it
        return "the kernel died"
    return f"papermill ended with status {returncode}"


def _read(path: Path) -> Any:
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, nbformat.ValidationError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CourseError(f"{path.name} is not a valid notebook: {first}") from error
    return notebook


def _code_cells(path: Path) -> list[Any]:
    r"""The code cells that have something to execute."""
    return [c for c in _read(path).cells if c.cell_type == "code" and c.source.strip()]


def _cells(path: Path) -> list[Any]:
    r"""What of a notebook decides its result: sources and tags, not outputs."""
    return [[c.cell_type, c.source, sorted(c.metadata.get("tags", []))] for c in _read(path).cells]


def _still_good(before: Result, job: _Job, out: Path) -> bool:
    return before.ok and before.key == job.key and (out / before.executed).is_file()


def _fingerprint_of_the_world() -> str:
    r"""Digest of what all notebooks depend on: package source, data files, libraries, device setting."""
    package = Path(coursekit.__file__).parent
    files = [*package.rglob("*.py"), *(p for p in DATA.rglob("*") if p.is_file())]
    content = {p.as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(set(files))}
    versions = {p: metadata.version(p) for p in _LIBRARIES if _installed(p)}
    return _digest([content, versions, sys.version, os.environ.get("DEVICE", "")])


def _installed(project: str) -> bool:
    try:
        metadata.version(project)
    except metadata.PackageNotFoundError:
        return False
    return True


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()


def _alone(out: Path) -> Any:
    r"""Holds the folder: two batches would overwrite each other's summary."""
    from filelock import FileLock, Timeout

    try:
        return FileLock(out / ".lock").acquire(timeout=0)  # released at the end of a `with`
    except Timeout as error:
        raise CourseError(
            f"another run is writing to {out}: wait for it, or choose another folder"
        ) from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

r"""A batch: plan, grade what has no result yet, in parallel, stoppable at any moment, and go on from there."""

from __future__ import annotations

import concurrent.futures
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError, one_of
from coursekit.grading import bench
from coursekit.grading.folder import Batch, note


def grade_lines(
    batch: Batch, *, jobs: int = 1, only: Iterable[str] = (), everything: bool = False,
    executor: Executor | None = None, keep: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    r"""Grade the lines of the manifest that have no result yet; returns the results of all that have one then.

    only: ids of submissions. everything: also what has a result. executor: any of concurrent.futures' kind, also
    parsl's or Dask's; by default `jobs` threads over the slots of this process. keep: the judge and the slots, for the
    next call. Ctrl-C keeps what is finished.
    """
    if jobs < 1:
        raise CourseError(f"--jobs must be a positive integer, such as 2; got {jobs}")
    lines = [line for line in batch.lines() if line["key"]]
    ids, only = {line["submission"] for line in lines}, list(only)
    for id in only:
        one_of("submission", id, ids)
    todo = [
        n
        for n in lines
        if (not only or n["submission"] in only)
        and (batch.result(n["key"]) is None or (everything and not n.get("earlier")))
    ]
    todo = list({n["key"]: n for n in reversed(todo)}.values())[::-1]  # a group's is graded once
    before = {n["key"]: batch.result(n["key"]) for n in todo}
    if not bench.is_open(batch.out):
        shutil.rmtree(batch.work, ignore_errors=True)  # what a killed grader left
    for part in [*batch.results.glob(".*.part"), *batch.out.glob(".*.part")]:
        if not Path("/proc", part.name.split(".")[-3]).exists():  # the process that wrote it
            part.unlink(missing_ok=True)
    batch.event("batch", lines=len(lines), todo=len(todo))
    if todo:
        own = executor is None
        pool = ThreadPoolExecutor(min(jobs, len(todo))) if own else executor
        try:
            _all(batch, pool, todo, before)
        except BaseException:
            bench.stop(batch.out)
            raise
        finally:
            if own:
                pool.shutdown(wait=True, cancel_futures=True)
            if not keep:
                bench.close(batch.out)
    batch.event("done")
    return [found for line in lines if (found := batch.result(line["key"])) is not None]


def _all(batch: Batch, pool: Executor, todo: list[dict[str, Any]], before: dict[str, dict[str, Any] | None]) -> None:
    from tqdm import tqdm

    waiting = {pool.submit(bench.grade_index, str(batch.out), line["index"]): line for line in todo}
    bar = tqdm(total=len(todo), desc="grading", unit="submission", file=sys.stderr, disable=not sys.stderr.isatty())
    try:
        for future in concurrent.futures.as_completed(waiting):
            line = waiting[future]
            result = future.result()
            _note(batch, line, before[line["key"]], result)
            bar.set_postfix_str(f"{line['submission'][:24]}: {result['status']}", refresh=False)
            bar.update()
    except BaseException:
        for future in waiting:
            future.cancel()
        raise
    finally:
        bar.close()


def _note(batch: Batch, line: dict[str, Any], old: dict[str, Any] | None, new: dict[str, Any]) -> None:
    r"""The audit's line of one mark."""
    points = sum(e["points"] for e in new["exercises"])
    more = {"submission": line["submission"], "key": line["key"], "status": new["status"], "points": points}
    if old is not None:
        more["points_before"] = sum(e["points"] for e in old["exercises"])
    note(batch.out, "graded", **more)


def summary(out: Path, results: list[dict[str, Any]]) -> str:
    r"""One line for the terminal."""
    counts: dict[str, int] = {}
    for result in results:
        counts[result["status"]] = counts.get(result["status"], 0) + 1
    listed = ", ".join(f"{n} {status}" for status, n in sorted(counts.items(), key=lambda c: (-c[1], c[0])))
    return f"{len(results)} graded{f' ({listed})' if listed else ''}; see {out}"

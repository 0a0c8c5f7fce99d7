r"""The wrapper's side of a run: phases, wall limits, sizes. It belongs to the grader, so no notebook can put it off.

One run has two phases. First the notebook's cells; then, once the line READY stands in the report, the questions are
handed over and answered. What the report said before that moment cannot speak of the questions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

READY = b'{"event": "ready"}\n'


def supervise(
    poll: Callable[[], int | None],
    report: int,
    output: int,
    questions: bytes,
    feed: int,
    limits: dict[str, Any],
    sample: Callable[[], tuple[int, int]] | None = None,
) -> dict[str, Any]:
    r"""Watch one run until it ends or has to be ended; says how.

    poll: exit status of the process (negative: its signal), None while it runs.
    report, output: descriptors of the two files that it writes. feed: pipe on which it waits for the questions.
    sample: bytes of memory and number of processes in the box.

    Returns "end" ("exit", "timeout", "memory_limit", "process_limit", "output_limit"), "phase" ("run", "probe"),
    "code", "ready" (bytes of the report that were written before the questions), "run" and "probe" (seconds).
    """
    os.set_blocking(feed, False)
    rest: memoryview | None = None
    begun, ready, seen, sampled = time.monotonic(), None, 0, 0.0
    seconds, pause, end, code = {"run": 0.0, "probe": 0.0}, 0.002, None, None
    while end is None:
        now = time.monotonic()
        if ready is None and (size := os.fstat(report).st_size) > seen:
            found = _position(report, max(0, seen - len(READY)), size)
            seen = size
            if found is not None:
                ready, seconds["run"], begun = found + len(READY), now - begun, now
                rest = memoryview(questions)
                pause = 0.002
        if rest is not None:
            rest = _fed(feed, rest)
        code = poll()
        phase = "run" if ready is None else "probe"
        if code is not None:
            end = "exit"
        elif now - begun > limits[phase]:
            end = "timeout"
        elif os.fstat(output).st_size > limits["output"] or os.fstat(report).st_size > limits["report"]:
            end = "output_limit"
        elif sample is not None and now - sampled > 0.04:
            sampled = now
            memory, processes = sample()
            if memory > limits["memory"]:
                end = "memory_limit"
            elif processes >= limits["processes"]:
                end = "process_limit"
        if end is None:
            time.sleep(pause)
            pause = min(0.02, pause * 1.2)
    phase = "run" if ready is None else "probe"
    seconds[phase] = time.monotonic() - begun
    return {"end": end, "phase": phase, "code": code, "ready": ready, **seconds}


def sample_proc(page: int = os.sysconf("SC_PAGE_SIZE")) -> tuple[int, int]:
    r"""Private memory and number of the processes that /proc shows: inside a box, those of the box."""
    memory = processes = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/statm") as file:
                    _, resident, shared, *_ = map(int, file.read().split())
            except (OSError, ValueError):  # it has just ended
                continue
            memory += (resident - shared) * page
            processes += 1
    return memory, processes


def _position(report: int, start: int, end: int) -> int | None:
    r"""Where a line READY begins in these bytes of the report."""
    content = os.pread(report, min(end - start, 1 << 22), start)
    at = content.find(READY)
    while at > 0 and content[at - 1 : at] != b"\n":
        at = content.find(READY, at + 1)
    return None if at < 0 else start + at


def _fed(feed: int, rest: memoryview) -> memoryview | None:
    r"""Hand over what the pipe takes now; None when all is handed over, or nobody reads any more."""
    try:
        while rest:
            rest = rest[os.write(feed, rest) :]
    except BlockingIOError:
        return rest
    except OSError:
        pass
    os.close(feed)
    return None

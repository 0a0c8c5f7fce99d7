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
#: How the line begins that each exercise writes when it is begun.
ASKED = b'{"event": "exercise", '


def supervise(
    poll: Callable[[], int | None],
    report: int,
    before: int,
    output: int,
    questions: bytes,
    feed: int,
    limits: dict[str, Any],
    sample: Callable[[], tuple[int, int]] | None = None,
) -> dict[str, Any]:
    r"""Watch one run until it ends or has to be ended; says how.

    poll: exit status of the process (negative: its signal), None while it runs.
    report, output: descriptors of the two files that it writes.
    before: of a file that gets what the report said before the questions were handed over: afterwards it can be
    changed, and could tell them.
    feed: pipe on which it waits for the questions.
    sample: bytes of memory and number of processes in the box.

    Returns "end" ("exit", "timeout", "memory_limit", "process_limit", "output_limit"), "phase" ("run", "probe"),
    "code", "run" and "probe" (seconds).
    """
    os.set_blocking(feed, False)
    rest: memoryview | None = None
    begun, ready, seen, sampled = time.monotonic(), None, 0, 0.0
    turn: float | None = None
    seconds, pause, end, code = {"run": 0.0, "probe": 0.0}, 0.002, None, None
    while end is None:
        now = time.monotonic()
        size = os.fstat(report).st_size
        if size > seen:
            if ready is not None and _position(report, ASKED, seen, size) is not None:
                turn = now
            found = _position(report, READY, seen, size) if ready is None else None
            seen = size
            if found is not None:
                turn = now
                ready, seconds["run"], begun = found + len(READY), now - begun, now
                _copy(report, before, ready)
                rest = memoryview(questions)
                pause = 0.002
        if rest is not None:
            rest = _fed(feed, rest)
        code = poll()
        phase = "run" if ready is None else "probe"
        if size >= limits["report"] or os.fstat(output).st_size > limits["output"]:
            end = "output_limit"
        elif code is not None:
            end = "exit"
        elif now - begun > limits[phase] or (turn is not None and now - turn > limits["exercise"]):
            end = "timeout"
        if sample is not None and end in (None, "timeout") and (end or now - sampled > 0.04):
            sampled = now
            memory, processes = sample()
            # Whoever is out of time with many processes spends it on making them.
            if processes >= limits["processes"] // (4 if end else 1):
                end = "process_limit"
            elif memory > limits["memory"]:
                end = "memory_limit"
        if end is None:
            time.sleep(pause)
            pause = min(0.02, pause * 1.2)
    phase = "run" if ready is None else "probe"
    seconds[phase] = time.monotonic() - begun
    if ready is None:
        _copy(report, before, limits["report"])
    return {"end": end, "phase": phase, "code": code, **seconds}


def sampler(most: int) -> Callable[[], tuple[int, int]]:
    r"""Memory and number of the processes that /proc shows: inside a box, those of the box.

    Pages that forks share count once; that is slow to find out, so it is only asked for where the sum is above `most`.
    """

    def sample() -> tuple[int, int]:
        here = [name for name in os.listdir("/proc") if name.isdigit()]
        memory = sum(_resident(name) for name in here)
        return (sum(_share(name) for name in here) if memory > most else memory), len(here)

    return sample


def _resident(pid: str, page: int = os.sysconf("SC_PAGE_SIZE")) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):  # it has just ended
        return 0
    return (resident - shared) * page


def _share(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(1024 * int(line.split()[1]) for line in file if line.startswith("Pss_Anon:"))
    except (OSError, ValueError):
        return 0


def _copy(source: int, target: int, most: int) -> None:
    content = os.pread(source, most, 0)
    while content:
        content = content[os.write(target, content) :]


def _position(report: int, line: bytes, start: int, end: int) -> int | None:
    r"""Where a line that begins so begins, if its end lies between `start` and `end`; all of it may lie before."""
    start = max(0, start - len(line))
    content = os.pread(report, min(end - start, 1 << 24), start)
    at = content.find(line)
    while at > 0 and content[at - 1 : at] != b"\n":
        at = content.find(line, at + 1)
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

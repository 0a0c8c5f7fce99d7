r"""The wrapper's side of a run: phases, wall limits, sizes. It belongs to the grader, so no notebook can put it off.

One run has two phases. First the notebook's cells; then, once the line READY stands in the report, the questions are
handed over and answered. What the report said before that moment cannot speak of the questions.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Any

READY = b'{"event": "ready"}\n'
#: How the line begins that each exercise writes when it is begun.
ASKED = b'{"event": "exercise", '


def supervise(
    poll: Callable[[], int | None], stream: int, report: int, before: int, output: int, questions: bytes, feed: int,
    limits: dict[str, Any], sample: Callable[[], tuple[int, int]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    r"""Watch one run until it ends or has to be ended; says how.

    poll: exit status of the process (negative: its signal), None while it runs.
    stream: what the process says is read from here, and can then be neither changed nor taken back by it.
    before, report: descriptors of files, for what it says before the questions are handed over and afterwards: only
    the latter could tell the questions.
    output: descriptor of the file that gets what it prints.
    feed: pipe on which it waits for the questions.
    sample: bytes of memory and number of processes in the box.

    Returns "end" ("exit", "timeout", "memory_limit", "process_limit", "output_limit"), "phase" ("run", "probe"),
    "code", "run" and "probe" (seconds).
    """
    os.set_blocking(feed, False)
    told = _Told(stream, before, report)
    rest: memoryview | None = None
    begun, sampled, turn = time.monotonic(), 0.0, None
    seconds, pause, end, code = {"run": 0.0, "probe": 0.0}, 0.002, None, None
    while end is None:
        code = poll()
        asking = told.ready
        news = told.read(limits["report"])
        now = time.monotonic()
        if told.ready and not asking:
            seconds["run"], begun, rest = now - begun, now, memoryview(questions)
        if told.ready and news:
            turn = now
        if rest is not None:
            rest = _fed(feed, rest)
        phase = "probe" if told.ready else "run"
        if told.size >= limits["report"] or os.fstat(output).st_size > limits["output"]:
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
            heard = [] if told.closed else [stream]
            select.select(heard, [] if rest is None else [feed], [], pause)
            pause = 0.002 if news or (heard and told.closed) else min(0.02, pause * 1.2)
    if rest is not None or not told.ready:
        os.close(feed)
    phase = "probe" if told.ready else "run"
    seconds[phase] = time.monotonic() - begun
    return {"end": end, "phase": phase, "code": code, **seconds}


class _Told:
    r"""What a run says, written to one file until it is ready for the questions, and to another afterwards."""

    def __init__(self, stream: int, before: int, report: int) -> None:
        os.set_blocking(stream, False)
        self.stream, self.before, self.report = stream, before, report
        self.size, self.ready, self.closed = 0, False, False
        self._last = b"\n"

    def read(self, most: int) -> bool:
        r"""Take what is there, until it is `most` bytes in all; whether READY or the begin of an exercise is in it."""
        news = False
        for _ in range(16):  # more than fits into a pipe or a socket, but not without end
            if self.closed or self.size >= most:
                break
            try:
                part = os.read(self.stream, min(most - self.size, 1 << 20))
            except BlockingIOError:
                break
            except OSError:
                part = b""
            self.closed = not part
            self.size += len(part)
            news = self._keep(part) or news
        return news

    def _keep(self, part: bytes) -> bool:
        seen = self._last + part
        start, news = len(self._last), False
        if not self.ready:
            at = seen.find(b"\n" + READY)
            self.ready = news = at >= 0
            end = at + 1 + len(READY) if self.ready else len(seen)
            write_all(self.before, seen[start:end])
            start = end
        if self.ready:
            # From the end of the line on: an exercise before READY is none.
            news = seen.find(b"\n" + ASKED, start - 1 if news else 0) >= 0 or news
            write_all(self.report, seen[start:])
        self._last = seen[-len(READY if not self.ready else ASKED) :]
        return news


def write_all(target: int, content: bytes) -> None:
    r"""All of `content`, however little the descriptor `target` takes at a time."""
    while content:
        content = content[os.write(target, content) :]


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

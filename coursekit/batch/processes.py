r"""Runs one command and watches its tree of processes: time, peak memory, and a clean end.

Between this process and the command stands a guard, which is this file run as a script. Its stdin is a pipe that
nobody writes to: when it closes, this process is gone, killed perhaps, and the guard ends what it had started.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

import psutil

_POLL_SECONDS = 0.1
#: New processes are looked for in one poll of so many: that reads what the machine knows of every process.
_SEARCH = 5


class Stopped(Exception):
    r"""The whole batch is to end: nothing more is to be said about this command."""


@dataclass(frozen=True)
class Watched:
    r"""How a command ended. returncode: as a shell has it, 128 + the signal for a command that was killed. seconds: by
    the clock. cpu_seconds: CPU time of its tree, which does not depend on what else the machine does. peak_bytes:
    largest resident memory, summed over its tree. Both as of the polls.
    """

    returncode: int
    seconds: float
    peak_bytes: int
    timed_out: bool
    cpu_seconds: float = 0.0


def watch(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    stop: threading.Event | None = None,
    log: IO[Any] | None = None,
) -> Watched:
    r"""Runs `command` to its end, at most `timeout` seconds. Nothing of its tree outlives this call, nor this process.

    The command gets a session of its own: Ctrl-C reaches this process alone, which then ends the tree itself
    (a kernel would not hear it). That holds for every exception raised while waiting.

    stop: once it is set, the tree is ended and Stopped is raised. log: a file that takes all that the command prints.
    """
    start = time.monotonic()
    guarded = [sys.executable, "-P", __file__, *command]
    guard = subprocess.Popen(guarded, env=env, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    root = psutil.Process(guard.pid)
    family: set[psutil.Process] = set()
    busy: dict[psutil.Process, float] = {}
    peak, timed_out = 0, False
    try:
        for poll in itertools.count():
            if guard.poll() is not None:
                break
            if poll % _SEARCH == 0:
                _grow(family, root)
            peak = max(peak, _resident(family, busy))
            if stop is not None and stop.is_set():
                raise Stopped
            if timeout is not None and time.monotonic() - start > timeout:
                timed_out = True
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                guard.wait(_POLL_SECONDS)
    finally:
        _grow(family, root)
        _end(family | {root})
        guard.wait()
        guard.stdin.close()
    return Watched(guard.returncode, time.monotonic() - start, peak, timed_out, sum(busy.values()))


def side_by_side(command: Sequence[str], processes: int) -> int:
    r"""Runs `command` in so many processes of one thread, and waits; the number of those that failed."""
    stop = threading.Event()
    one = functools.partial(watch, env=os.environ | {"OMP_NUM_THREADS": "1"}, stop=stop)
    with ThreadPoolExecutor(processes) as pool:
        try:
            return sum(ended.returncode != 0 for ended in pool.map(one, [command] * processes))
        finally:
            stop.set()


def _grow(family: set[psutil.Process], root: psutil.Process) -> None:
    r"""Adds what `root` has started. Members are remembered: one that detaches still ends with it."""
    with contextlib.suppress(psutil.Error):
        family.update(root.children(recursive=True))


def _resident(family: set[psutil.Process], busy: dict[psutil.Process, float]) -> int:
    r"""Resident bytes, now, of all of `family`. busy: gets the CPU seconds of each process so far."""
    total = 0
    for member in list(family):
        with contextlib.suppress(psutil.Error):
            total += member.memory_info().rss
            times = member.cpu_times()
            busy[member] = times.user + times.system
    return total


def _end(family: set[psutil.Process]) -> None:
    r"""Terminates every process, and kills what is left after 3 s. psutil notices an id that was given anew."""
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.terminate()
    _, alive = psutil.wait_procs(list(family), timeout=3)
    for member in alive:
        with contextlib.suppress(psutil.Error):
            member.kill()
    psutil.wait_procs(alive, timeout=3)


def _guard(command: Sequence[str]) -> int:
    r"""Runs `command`, and ends its tree when stdin closes before it is done."""
    # On Linux, what forks twice to get away becomes this process's child instead of init's.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    family = {psutil.Process(child.pid)}
    alone = threading.Event()

    def listen() -> None:
        while not select.select([sys.stdin], [], [], 0.5)[0]:
            _grow(family, psutil.Process())
        alone.set()
        _grow(family, psutil.Process())
        _end(family)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    status = child.wait()
    if alone.is_set():
        listener.join()
    _grow(family, psutil.Process())
    _end(family)  # what the command has left behind, however it detached
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[1:]))

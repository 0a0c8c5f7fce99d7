r"""Runs one command and watches its tree of processes: wall time, peak memory, and a clean end."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Watched:
    r"""How a command ended. `peak_bytes`: largest resident memory, summed over its tree, at any poll."""

    returncode: int
    seconds: float
    peak_bytes: int
    timed_out: bool


def watch(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float | None = None
) -> Watched:
    r"""Runs `command` to its end, at most `timeout` seconds. Nothing of its tree outlives this call.

    The command gets a session of its own: Ctrl-C reaches this process alone, which then ends the tree itself
    (a kernel would not hear it). That holds for every exception raised while waiting.
    """
    start = time.monotonic()
    child = subprocess.Popen(command, env=env, start_new_session=True)
    root = psutil.Process(child.pid)
    family: set[psutil.Process] = {root}
    peak, timed_out = 0, False
    try:
        while child.poll() is None:
            peak = max(peak, _resident(root, family))
            if timeout is not None and time.monotonic() - start > timeout:
                timed_out = True
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_POLL_SECONDS)
    finally:
        with contextlib.suppress(psutil.Error):
            family.update(root.children(recursive=True))
        _end(family)
        child.wait()
    return Watched(child.returncode, time.monotonic() - start, peak, timed_out)


def _resident(root: psutil.Process, family: set[psutil.Process]) -> int:
    r"""Resident bytes of the tree now. Members are remembered: one that detaches still ends with it."""
    with contextlib.suppress(psutil.Error):
        family.update(root.children(recursive=True))
    total = 0
    for member in list(family):
        with contextlib.suppress(psutil.Error):
            total += member.memory_info().rss
    return total


def _end(family: set[psutil.Process]) -> None:
    r"""Asks every process to end, then makes it. psutil notices when a number belongs to another by now."""
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.terminate()
    _, alive = psutil.wait_procs(list(family), timeout=3)
    for member in alive:
        with contextlib.suppress(psutil.Error):
            member.kill()
    psutil.wait_procs(alive, timeout=3)

r"""What of the machine a batch takes: how many notebooks at a time, of how many threads.

Models as small as the course's gain little from a second thread, and beside other work two threads wait for each other
spinning, inside MKL, where no wait policy reaches: so notebooks run side by side, a thread each.
"""

from __future__ import annotations

import os

import psutil

#: Bytes that a notebook of the course takes at most; what a batch leaves free for everything else.
NOTEBOOK, SPARE = 4.5e9, 1e9


def cores() -> int:
    r"""Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def jobs_that_fit(notebooks: int) -> int:
    r"""Notebooks at a time, by cores and by free memory. On a GPU one, since they would share its memory."""
    from coursekit.device import pick_device  # not at the top: it imports torch

    if pick_device().type != "cpu":
        return 1
    fit = int((psutil.virtual_memory().available - SPARE) / NOTEBOOK)
    return max(1, min(notebooks, cores(), fit))


def threads(jobs: int = 1) -> str:
    r"""Threads for each of `jobs` kernels: as the environment says, else a share of the cores that nobody else uses."""
    idle = cores() * (1 - psutil.cpu_percent(0.2) / 100)
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, round(idle) // jobs))

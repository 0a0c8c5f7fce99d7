r"""Times on a machine that others use as well: several calls in turns, each compared within its own round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from coursekit.errors import whole


def ratios(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    r"""Time of each call, that of the first = 1: the median over `rounds`, in each of which all are called once.

    Whatever slows the machine down for a while slows all calls of a round. Each round begins with the call after the
    one that the last round began with, so that none always has the same place. Waits for the GPU where there is one.
    """
    rounds = whole("rounds", rounds, least=1, such_as=15)
    for call in calls.values():
        call()  # warmed up
    names = list(calls)
    times = []
    for i in range(rounds):
        turn = i % len(names)
        times.append({name: _seconds(calls[name]) for name in names[turn:] + names[:turn]})
    return {name: statistics.median(t[name] / t[names[0]] for t in times) for name in names}


def _seconds(call: Callable[[], Any]) -> float:
    _wait()
    start = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

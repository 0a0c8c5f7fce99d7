r"""Which learning rates to try: every method is judged at its own best one."""

from __future__ import annotations

from collections.abc import Mapping

#: 1 and 3 in each power of ten.
GRID = tuple(float(f"{digit}e{power}") for power in range(-6, 1) for digit in (1, 3))


def around(rate: float) -> list[float]:
    r"""`rate`, which is on the grid, between its neighbours there."""
    at = GRID.index(rate)
    return list(GRID[max(0, at - 1) : at + 2])


def beyond(tried: Mapping[float, float | None]) -> float | None:
    r"""The next rate of the grid to try, where the best of those `tried` is the lowest or highest of them.

    tried: rate -> accuracy (None where training failed). None: the best lies within, or at an end of the grid.
    """
    top = best(tried)
    at = GRID.index(top)
    if top == min(tried) and at > 0:
        return GRID[at - 1]
    if top == max(tried) and at < len(GRID) - 1:
        return GRID[at + 1]
    return None


def best(tried: Mapping[float, float | None]) -> float:
    r"""The rate with the highest accuracy; of several, the lowest."""
    return max(sorted(tried), key=lambda rate: -1.0 if tried[rate] is None else tried[rate])

r"""Rows of unequal length in blocks of equal length, so that nothing is spent on padding.

Two ways, for two kinds of text. *Blocks* run on from one text into the next and cut wherever a block is full, as in
pre-training: no token is special. *Bins* hold whole examples: an answer must not be cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from coursekit.errors import CourseError


def blocks(rows: Sequence[Sequence[int]], length: int, end: int) -> list[list[int]]:
    r"""All rows one after the other, each followed by `end`, cut into blocks of `length` tokens.

    What is left over at the very end and fills no block is dropped: fewer than `length` tokens.
    Raises CourseError for a length below 2, which leaves nothing to predict.
    """
    _check(length)
    stream = [token for row in rows for token in (*row, end)]
    return [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]


def bins(lengths: Sequence[int], length: int) -> list[list[int]]:
    r"""Indices of the rows that go into each bin of `length` tokens: the longest rows first, each into the first bin
    that has room (first-fit decreasing; at most 11/9 of the fewest bins possible, and 6/9 of one: Dósa 2007).

    Raises CourseError for a row that is longer than a bin.
    """
    _check(length)
    if lengths and (longest := max(lengths)) > length:
        raise CourseError(
            f"a row has {longest} tokens, and a bin has {length}: take longer bins, or leave it out"
        )
    filled: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((b for b, free in enumerate(room) if lengths[index] <= free), None)
        if place is None:
            filled.append([])
            room.append(length)
            place = len(room) - 1
        filled[place].append(index)
        room[place] -= lengths[index]
    return filled


def _check(length: int) -> None:
    if length < 2:
        raise CourseError(f"length={length}: a block needs two tokens or more, to predict one from another")

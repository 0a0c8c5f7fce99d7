r"""Rows of unequal length in blocks of equal length, so that nothing is spent on padding.

Two ways, for two kinds of text. *Blocks* run on from one text into the next and cut wherever a block is full, as in
pre-training: no token is special. *Bins* hold whole examples: an answer must not be cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from coursekit.errors import CourseError, whole


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
    that has room (first-fit decreasing; at most 11/9 of the fewest bins possible, plus 6/9: Dósa 2007).

    Raises CourseError for a row that is longer than a bin.
    """
    _check(length)
    if lengths and (longest := max(lengths)) > length:
        raise CourseError(
            f"a row has {longest} tokens, and a bin has {length}: take longer bins, or leave it out"
        )
    filled: list[list[int]] = []
    free = _Free(len(lengths), length)
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = free.take(lengths[index])
        if place == len(filled):
            filled.append([])
        filled[place].append(index)
    return filled


class _Free:
    r"""The room in `count` bins, as a tree whose nodes hold the most that a bin below them has: to find the first bin
    with enough room takes log₂ `count` looks.
    """

    def __init__(self, count: int, length: int) -> None:
        self.leaves = 1 << max(0, count - 1).bit_length()
        self.most = [length] * (2 * self.leaves)

    def take(self, tokens: int) -> int:
        r"""Put `tokens` into the first bin that has room for them, and return its number."""
        node = 1
        while node < self.leaves:
            node = 2 * node + (self.most[2 * node] < tokens)  # to the left where it fits there
        self.most[node] -= tokens
        place = node - self.leaves
        while node := node // 2:
            self.most[node] = max(self.most[2 * node], self.most[2 * node + 1])
        return place


def _check(length: int) -> None:
    length = whole("length", length, least=2)  # to predict one token from another

r"""Small sums as a text that a decoder continues: a task whose answers a rule can judge."""

from __future__ import annotations

import random
from dataclasses import dataclass

from coursekit.errors import CourseError, whole


@dataclass(frozen=True)
class Sum:
    r"""A sum that is asked, behind another one that shows how. SmolLM2 writes each digit as a token of its own."""

    a: int
    b: int
    shown: tuple[int, int]

    @property
    def total(self) -> int:
        r"""The right answer."""
        return self.a + self.b

    @property
    def prompt(self) -> str:
        r"""The text, up to where the answer begins."""
        c, d = self.shown
        return f"{c} + {d} = {c + d}\n{self.a} + {self.b} = "


def sums(train: int, test: int, largest: int = 20, seed: int = 0) -> tuple[list[Sum], list[Sum]]:
    r"""So many sums of two numbers from 1 to `largest` to learn from, and as many as asked to be measured on.

    No pair of numbers is asked twice, in either order. Raises CourseError where there are not so many pairs.
    """
    train, test = whole("train", train, least=1), whole("test", test, least=1)
    largest = whole("largest", largest, least=2, such_as=20)
    pairs = [(a, b) for a in range(1, largest + 1) for b in range(1, a + 1)]
    if train + test > len(pairs):
        raise CourseError(f"there are {len(pairs)} sums of two numbers up to {largest}; {train + test} are asked for")
    draw = random.Random(seed)
    found = []
    for pair in draw.sample(pairs, train + test):
        a, b = draw.sample(pair, 2)
        found.append(Sum(a, b, (draw.randint(1, largest), draw.randint(1, largest))))
    return found[:train], found[train:]

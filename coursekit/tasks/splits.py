r"""Splits that stay the same for everybody, that every label scheme shares, and that nothing leaks across.

A *unit* is what must not be torn apart: a document with all its sentences, or one sentence with its near
copies. Units are sorted by mean rating and cut into blocks of `BLOCK` neighbours; in each block the `TEST`
units that a hash of their keys puts first go to the test split, the next `VALIDATION` to validation, the rest to train.
Every split therefore has the same distribution of ratings, hence of any labels made from ratings, without knowing the
labels: the split of a sentence cannot depend on the label scheme. A hash instead of a random generator: no library
version can change it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache

BLOCK, TEST, VALIDATION = 20, 4, 1


def normalise(text: str) -> str:
    r"""`text` in lower case with single spaces: two sentences equal under this are the same sentence."""
    return " ".join(text.lower().split())


@cache
def near_key(text: str) -> str:
    r"""Letters and digits only: sentences equal under this are near copies and must share a split.

    A sentence without any ("!!!", ":-)") is its own key.
    """
    return re.sub(r"[\W_]+", "", text.lower()) or normalise(text)


def position(key: str) -> int:
    r"""A fixed pseudo-random place for `key`, the same on every machine and Python (which salts its own `hash`)."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def assign(units: Mapping[str, float]) -> dict[str, str]:
    r"""The split, "train", "validation" or "test", of each unit, given its mean rating."""
    ordered = sorted(units, key=lambda key: (units[key], position(key)))
    splits: dict[str, str] = {}
    for start in range(0, len(ordered), BLOCK):
        block = sorted(ordered[start : start + BLOCK], key=position)
        for rank, key in enumerate(block):
            # The last block may be short; scaling the rank keeps its shares right.
            place = rank * BLOCK // len(block)
            splits[key] = "test" if place < TEST else "validation" if place < TEST + VALIDATION else "train"
    return splits

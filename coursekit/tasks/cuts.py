r"""Examples that were left out since they are too long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    r"""An example that was left out of `split` since it has more tokens than fit.

    lost: learned tokens that a cut at the limit would have taken away, out of `learned`; 0 where it falls behind the
    last answer.
    """

    split: str
    row: int
    tokens: int
    lost: int
    learned: int

    def __str__(self) -> str:
        return f"{self.split} row {self.row}: {self.tokens} tokens, {self.lost} of {self.learned} learned ones would go"

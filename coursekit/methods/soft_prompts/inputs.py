r"""Inputs of a model's body for each token, with virtual tokens in front or in place of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coursekit.errors import CourseError


@dataclass
class Inputs:
    r"""Input vectors, with what else the caller gave for each token; None is what was not given."""

    x: Float[Tensor, "batch seq d"]
    mask: Tensor | None = None  # (batch, seq)
    positions: Tensor | None = None  # (batch, seq)
    types: Tensor | None = None  # (batch, seq)

    def prepend(self, prompt: Float[Tensor, "n d"], start: int = 0, free: int = 0, behind: bool = False) -> Inputs:
        r"""The same with `prompt` before every row: ones in the mask, all positions n later.

        start: the model's first position. free: as many masked slots come in front, or `behind` everything.
        """
        batch, n = len(self.x), len(prompt)
        if n == free == 0:
            return self

        def row(front: Tensor, given: Tensor | None) -> Tensor | None:
            if given is None:
                return None
            slots = given.new_zeros(batch, free, *given.shape[2:])
            return torch.cat([front, given, slots] if behind else [slots, front, given], dim=1)

        ones = torch.ones(batch, n, dtype=torch.long, device=self.x.device)
        return Inputs(
            row(prompt.expand(batch, -1, -1), self.x),  # (n, d) -> (batch, n, d) -> (batch, n + seq, d)
            row(ones, self.mask),
            None if self.positions is None else row(ones.cumsum(1) - 1 + start, self.positions + n),
            row(ones * 0, self.types),
        )

    def replace(self, prompt: Float[Tensor, "n d"], ids: Int[Tensor, "batch seq"], placeholder: int) -> Inputs:
        r"""The same with the vectors of `prompt`, in order, where `ids` has the token `placeholder`.

        Raises CourseError for a row in which that token does not stand exactly n times.
        """
        places, n = ids == placeholder, len(prompt)
        found = places.sum(1)
        if not bool((found == n).all()):
            raise CourseError(
                f"a row of this batch has the placeholder token {placeholder} {found[found != n][0].item()} times: "
                f"a text needs it exactly n={n} times"
            )
        # (n, d) -> (batch * n, d): the places are filled from left to right, row after row
        vectors = prompt.expand(len(ids), -1, -1).reshape(-1, prompt.shape[-1])
        return Inputs(self.x.masked_scatter(places[..., None], vectors), self.mask, self.positions, self.types)

    def rows(self, index: Tensor) -> Inputs:
        r"""Some rows of the batch."""
        return Inputs(*(None if value is None else value[index] for value in self._columns()))

    def _columns(self) -> list[Tensor | None]:
        return [getattr(self, field.name) for field in fields(self)]


def join(parts: Sequence[Inputs], rows: Sequence[Tensor]) -> Inputs:
    r"""One batch from parts of one width, each with the numbers of its rows."""
    order = torch.cat(list(rows)).argsort()
    columns = zip(*(part._columns() for part in parts), strict=True)
    return Inputs(*(None if column[0] is None else torch.cat(column)[order] for column in columns))

r"""The scale of a block: its largest magnitude, absmax."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

#: Below this the inverse of a scale would overflow, for a block of zeros above all.
TINY = 1e-38


def inverse(absmax: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""1 / absmax; finite for a block of zeros, too."""
    return 1.0 / absmax.clamp(min=TINY)


def scaled(
    rows: Float[Tensor, "blocks block"],
) -> tuple[Float[Tensor, "blocks block"], Float[Tensor, " blocks"]]:
    r"""Every row divided by its absmax, and the absmax, both fp32."""
    rows = rows.float()
    absmax = rows.abs().amax(1)
    return rows * inverse(absmax)[:, None], absmax


def scaled_short(row: Float[Tensor, "1 n"]) -> tuple[Float[Tensor, "1 n"], Float[Tensor, " 1"]]:
    r"""The same for a last block that is not full, to the bit what bitsandbytes makes of it on a CPU.

    It divides, where a full block is multiplied by 1 / absmax, which can differ in the last bit; and it stores 1e-38
    for a block of zeros.
    """
    row = row.float()
    absmax = row.abs().amax(1).clamp(min=TINY)
    return row / absmax, absmax

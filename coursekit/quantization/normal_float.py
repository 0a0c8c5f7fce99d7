r"""NormalFloat: levels at quantiles of N(0, 1), so that each is used about equally often by normal weights.

QLoRA (Dettmers et al. 2023, arXiv:2305.14314), section 3 and appendix E, for 4 bits; here for k.
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

from coursekit.errors import whole


def tail(bits: int) -> float:
    r"""The quantile at which the outermost level of NF-k stands, $1 - \delta$.

    $\delta = \frac{1}{2}\bigl(\frac{1}{2 \cdot 2^k} + \frac{1}{2 (2^k - 1)}\bigr)$: the quantile 1 itself lies at
    infinity. 7 decimals, as bitsandbytes has it for k = 4 (0.9677083): one digit more changes the table's last bits.
    """
    n = 2**bits
    return round(1 - (1 / (2 * n) + 1 / (2 * (n - 1))) / 2, 7)


def normal_float(bits: int) -> Float[Tensor, " levels"]:
    r"""The $2^k$ levels of NF-k, ascending, fp32 in [-1, 1].

    $2^{k-1}$ positive ones, zero, $2^{k-1} - 1$ negative ones: quantiles at equal distances from `tail` to 1/2, divided
    by the largest. For k = 4 every bit is as in bitsandbytes.

    Raises CourseError for a width that is no integer from 2 to 8.
    """
    return torch.tensor(levels(whole("bits", bits, least=2, most=8, such_as=4)), dtype=torch.float32, device="cpu")


@cache
def levels(bits: int) -> tuple[float, ...]:
    r"""The levels of NF-k, made once."""
    quantile, half = NormalDist().inv_cdf, 2 ** (bits - 1)
    positive = [quantile(p) for p in steps(tail(bits), 0.5, half + 1)]
    negative = [-quantile(p) for p in steps(tail(bits), 0.5, half)]
    values = torch.tensor(sorted([*negative, 0.0, *positive]), dtype=torch.float32, device="cpu")
    return tuple((values / values[-1]).tolist())


def steps(start: float, end: float, n: int) -> list[float]:
    r"""`n` equal steps from `start` to `end`, in fp32, without the last (the quantile of 1/2, which is zero).

    From both ends to the middle, each product rounded before it is added: torch.linspace, without the freedom that
    it has, machine by machine, to fuse the two.
    """
    start, end = (torch.tensor(x, dtype=torch.float32, device="cpu") for x in (start, end))
    i, step = torch.arange(n, device="cpu"), (end - start) / (n - 1)
    return torch.where(i < n // 2, start + step * i, end - step * (n - 1 - i))[:-1].tolist()

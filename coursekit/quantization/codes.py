r"""Code tables by name: what each of the $2^k$ codes of a k-bit type stands for, before it is scaled."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from coursekit.errors import one_of
from coursekit.quantization.normal_float import normal_float


def integer(bits: int) -> Float[Tensor, " levels"]:
    r"""Symmetric integers $m, \dots, 1, 0, 0, -1, \dots, -m$ over $m = 2^{k-1} - 1$; bitsandbytes' order for int4.

    Zero has two codes: a scale that takes the largest magnitude to $\pm m$ has no use for $-m - 1$.
    """
    m = 2 ** (bits - 1) - 1
    codes = [*range(m, -1, -1), *range(0, -m - 1, -1)]
    return torch.tensor(codes, dtype=torch.float32, device="cpu") / m


def float4() -> Float[Tensor, " levels"]:
    r"""FP4 as in bitsandbytes: index = bit pattern: 1 sign bit, 2 exponent bits e, 1 mantissa bit m.

    $2^{4-e}(1 + m/2)$, so the largest e has the smallest numbers; e = 0 holds 0 and $2^{-4}$. Over 12, the largest.
    """
    positive = [0, 2**-4, *(2 ** (4 - e) * (1 + m / 2) for e in (1, 2, 3) for m in (0, 1))]
    return _signed(positive)


def e2m1() -> Float[Tensor, " levels"]:
    r"""FP4 of the OCP Microscaling specification 1.0 (E2M1), which 4-bit hardware computes with. Index = bit pattern.

    $2^{e-1}(1 + m/2)$; e = 0 holds 0 and 1/2. Over 6, the largest. It differs from `float4` in one magnitude only.
    """
    positive = [0, 0.5, *(2 ** (e - 1) * (1 + m / 2) for e in (1, 2, 3) for m in (0, 1))]
    return _signed(positive)


def _signed(positive: list[float]) -> Float[Tensor, " levels"]:
    r"""`positive` and, with the sign bit set, the same again below zero; in [-1, 1]."""
    values = torch.tensor(positive + [-x for x in positive], dtype=torch.float32, device="cpu")
    return values / values.max()


#: nf: NormalFloat. int: symmetric integers. fp4: bitsandbytes' 4-bit float. e2m1: the standard's.
CODES = {
    **{f"nf{k}": (normal_float, k) for k in range(2, 9)},
    **{f"int{k}": (integer, k) for k in range(2, 9)},
    "fp4": (float4,),
    "e2m1": (e2m1,),
}


def code(name: str) -> Float[Tensor, " levels"]:
    r"""The table of type `name` ("nf4", "fp4", "int8", ...): entry i is what code i stands for, fp32 in [-1, 1].

    A new tensor on the CPU. Raises CourseError, with a suggestion, for a name that is none.
    """
    make, *bits = CODES[one_of("code", name, CODES)]
    return make(*bits)

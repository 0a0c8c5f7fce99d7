r"""The one formula of LoRA, $Wx + s\,B(Ax)$, as autograd functions with the backward pass written out.

Plain autograd gives the same numbers. It also keeps a scaled copy of every output and multiplies every incoming
gradient, `out` wide, by s. Here the scale is applied where the tensors are r wide, and only x and s Ax are kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from coursekit.autocast import autocast_dtype


def branch(
    x: Float[Tensor, "*batch in"],
    A: Float[Tensor, "r in"],
    B: Float[Tensor, "out r"],
    s: float,  # alpha / r
) -> tuple[Float[Tensor, "*batch r"], Float[Tensor, "*batch out"]]:
    r"""$sAx$ and $sB(Ax)$, the latter with the bits that $B(Ax) \cdot s$ has in peft."""
    Ax = F.linear(x, A)  # (*batch, in) -> (*batch, r)
    if math.frexp(s)[0] == 0.5:  # a power of two: scaling is exact, so it may come first, where it is cheap
        sAx = Ax.mul_(s)
        return sAx, F.linear(sAx, B)  # (*batch, r) -> (*batch, out)
    return Ax * s, F.linear(Ax, B).mul_(s)


def branch_gradients(
    g: Float[Tensor, "n out"],
    x: Float[Tensor, "*batch in"],
    sAx: Float[Tensor, "*batch r"],
    B: Float[Tensor, "out r"],
    s: float,
) -> tuple[Float[Tensor, "n r"], Float[Tensor, "r in"], Float[Tensor, "out r"]]:
    r"""$\partial L/\partial(Ax) = s\,gB$, $\partial L/\partial A$ and $\partial L/\partial B$, from g over n tokens."""
    dAx = (g @ B).mul_(s)  # (n, out)(out, r) -> (n, r)
    dA = dAx.t() @ x.reshape(-1, x.shape[-1])  # (r, n)(n, in) -> (r, in)
    dB = g.t() @ sAx.reshape(-1, sAx.shape[-1])  # (out, n)(n, r) -> (out, r)
    return dAx, dA, dB


class LowRankUpdate(torch.autograd.Function):
    r"""$h = y + s\,B(Ax)$, the paper's equation 3, beside any frozen layer that answered y."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Float[Tensor, "*batch out"],  # W x
        x: Float[Tensor, "*batch in"],
        A: Float[Tensor, "r in"],
        B: Float[Tensor, "out r"],
        s: float,
    ) -> Float[Tensor, "*batch out"]:
        sAx, sBAx = branch(x, A, B, s)
        ctx.save_for_backward(x, sAx, A, B)
        ctx.s = s
        return sBAx.add_(y).to(y.dtype)  # in place: nobody else holds this tensor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, "*batch out"]):
        x, sAx, A, B = ctx.saved_tensors
        g_flat = g.reshape(-1, g.shape[-1]).to(B.dtype)  # (*batch, out) -> (n, out)
        dAx, dA, dB = branch_gradients(g_flat, x, sAx, B, ctx.s)
        dx = (dAx @ A).view(x.shape) if ctx.needs_input_grad[1] else None  # (n, r)(r, in) -> (*batch, in)
        return g, dx, dA, dB, None


class LowRankLinear(torch.autograd.Function):
    r"""$h = Wx + b + s\,B(Ax)$ for a frozen `nn.Linear`: both gradients of x meet in one tensor, with no pass more."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*batch in"],
        W: Float[Tensor, "out in"],
        b: Float[Tensor, " out"] | None,
        A: Float[Tensor, "r in"],
        B: Float[Tensor, "out r"],
        s: float,
    ) -> Float[Tensor, "*batch out"]:
        sAx, sBAx = branch(x, A, B, s)
        ctx.save_for_backward(x, sAx, W, A, B)
        ctx.s = s
        return F.linear(x, W, b).add_(sBAx)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, "*batch out"]):
        x, sAx, W, A, B = ctx.saved_tensors
        g_flat = g.reshape(-1, g.shape[-1])  # (*batch, out) -> (n, out)
        dAx, dA, dB = branch_gradients(g_flat, x, sAx, B, ctx.s)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (
                (g_flat @ W).addmm_(dAx, A).view(x.shape)
            )  # (n, out)(out, in) + (n, r)(r, in) -> (*batch, in)
        return dx, None, None, dA, dB, None


def low_rank_update(
    y: Float[Tensor, "*batch out"],
    x: Float[Tensor, "*batch in"],
    A: Float[Tensor, "r in"],
    B: Float[Tensor, "out r"],
    s: float,
) -> Float[Tensor, "*batch out"]:
    r"""$y + s\,B(Ax)$; x is brought to A's precision first (fp32 adapters on a 16-bit base), the sum back to y's.

    Under autocast all three are brought to its precision, as it would do itself. Not in the function: its backward
    pass, which no autocast reaches, would find some tensors in one precision and some in the other.
    """
    dtype = (autocast_dtype(x) or A.dtype) if A.dtype == torch.float32 else A.dtype
    return LowRankUpdate.apply(y, x.to(dtype), A.to(dtype), B.to(dtype), s)

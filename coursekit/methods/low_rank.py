r"""The one formula of LoRA, as an autograd function: $y + s\,B(Ax)$."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


class LowRankUpdate(torch.autograd.Function):
    r"""$h = y + s\,B(Ax)$, the paper's equation 3, with the backward pass written out.

    Plain autograd gives the same numbers. It also keeps a scaled copy of every output and multiplies every incoming
    gradient, `out` wide, by s; here the scale is applied where the tensors are r wide, and only x and Ax are kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        y: Float[Tensor, "*batch out"],  # W x, from the frozen layer
        x: Float[Tensor, "*batch in"],
        A: Float[Tensor, "r in"],
        B: Float[Tensor, "out r"],
        s: float,  # alpha / r
    ) -> Float[Tensor, "*batch out"]:
        Ax = F.linear(x, A)  # (*batch, in) -> (*batch, r)
        ctx.save_for_backward(x, Ax, A, B)
        ctx.s, ctx.y_dtype = s, y.dtype
        # In place, since nobody else holds B(Ax). The order of operations is peft's, so the bits are too.
        return F.linear(Ax, B).mul_(s).add_(y).to(y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, "*batch out"]):
        x, Ax, A, B = ctx.saved_tensors
        needs_y, needs_x, needs_A, needs_B, _ = ctx.needs_input_grad
        g_flat = g.reshape(-1, g.shape[-1]).to(B.dtype)  # (*batch, out) -> (n, out)
        dx = dA = dB = None
        if needs_x or needs_A:
            dAx = (g_flat @ B).mul_(ctx.s)  # (n, out)(out, r) -> (n, r)
            if needs_A:
                dA = dAx.t() @ x.reshape(-1, x.shape[-1])  # (r, n)(n, in) -> (r, in)
            if needs_x:
                dx = (dAx @ A).view(x.shape)  # (n, r)(r, in) -> (*batch, in)
        if needs_B:
            dB = (g_flat.t() @ Ax.reshape(-1, Ax.shape[-1])).mul_(ctx.s)  # (out, n)(n, r) -> (out, r)
        return (g if needs_y else None), dx, dA, dB, None


def low_rank_update(
    y: Float[Tensor, "*batch out"],
    x: Float[Tensor, "*batch in"],
    A: Float[Tensor, "r in"],
    B: Float[Tensor, "out r"],
    s: float,
) -> Float[Tensor, "*batch out"]:
    r"""$y + s\,B(Ax)$; x is brought to A's precision first (fp32 adapters on a 16-bit base), the sum back to y's."""
    return LowRankUpdate.apply(y, x.to(A.dtype), A, B, s)

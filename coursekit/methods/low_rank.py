r"""The one formula of LoRA, $Wx + s\,B(Ax)$, as autograd functions with the backward pass written out.

Why it is here: a step takes 0.96 of peft's time and moves 0.83 of its bytes (`benchmarks/step.py`). Plain autograd
gives the same numbers, but keeps a scaled copy of every output and multiplies every incoming gradient, `out` wide, by
s. Here the scale is applied where the tensors are r wide, and only x and s Ax are kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from coursekit.autocast import autocast_dtype
from coursekit.methods.mechanism.branch import Branch, meeting_dtype


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
    g: Float[Tensor, "n out"], x: Float[Tensor, "*batch in"], sAx: Float[Tensor, "*batch r"],
    B: Float[Tensor, "out r"], s: float,
) -> tuple[Float[Tensor, "n r"], Float[Tensor, "r in"], Float[Tensor, "out r"]]:  # fmt: skip
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
    def backward(ctx: Any, g: Float[Tensor, "*batch out"]) -> tuple[Tensor | None, ...]:
        x, sAx, A, B = ctx.saved_tensors
        g_flat = g.reshape(-1, g.shape[-1]).to(B.dtype)  # (*batch, out) -> (n, out)
        dAx, dA, dB = branch_gradients(g_flat, x, sAx, B, ctx.s)
        dx = (dAx @ A).view(x.shape) if ctx.needs_input_grad[1] else None  # (n, r)(r, in) -> (*batch, in)
        return g, dx, dA, dB, None


class LowRankLinear(torch.autograd.Function):
    r"""$h = Wx + b + s\,B(Ax)$ for a frozen `nn.Linear`: both gradients of x meet in one tensor, with no pass more."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "*batch in"], W: Float[Tensor, "out in"], b: Float[Tensor, " out"] | None,
        A: Float[Tensor, "r in"], B: Float[Tensor, "out r"], s: float,
    ) -> Float[Tensor, "*batch out"]:  # fmt: skip
        sAx, sBAx = branch(x, A, B, s)
        ctx.save_for_backward(x, sAx, W, A, B)
        ctx.s = s
        return F.linear(x, W, b).add_(sBAx)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, "*batch out"]) -> tuple[Tensor | None, ...]:
        x, sAx, W, A, B = ctx.saved_tensors
        g_flat = g.reshape(-1, g.shape[-1])  # (*batch, out) -> (n, out)
        dAx, dA, dB = branch_gradients(g_flat, x, sAx, B, ctx.s)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (g_flat @ W).addmm_(dAx, A).view(x.shape)  # (n, out)(out, in) + (n, r)(r, in) -> (*batch, in)
        return dx, None, None, dA, dB, None


def low_rank_update(
    y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"], A: Float[Tensor, "r in"],
    B: Float[Tensor, "out r"], s: float,
) -> Float[Tensor, "*batch out"]:  # fmt: skip
    r"""$y + s\,B(Ax)$; x is brought to A's precision first (fp32 adapters on a 16-bit base), the sum back to y's.

    Under autocast all three are brought to its precision, as it would do itself. Not in the function: its backward
    pass, which no autocast reaches, would find some tensors in one precision and some in the other.
    """
    dtype = meeting_dtype(x, A.dtype)
    x, A, B = (tensor.to(dtype) for tensor in (x, A, B))
    if not torch.is_grad_enabled():  # a token at a time, calling an autograd function takes longer than the products
        return branch(x, A, B, s)[1].add_(y).to(y.dtype)
    return LowRankUpdate.apply(y, x, A, B, s)


class FastTwin(Branch):
    r"""Memory-saving autograd version of a plain LoRA branch (A, B, s, dropout), bitwise equal."""

    def compute(self, y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return low_rank_update(y, self.dropout(x), self.A, self.B, self.s)

    def answer(self, layer: nn.Module, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        if self.fuses(layer, x):
            return LowRankLinear.apply(x, layer.weight, layer.bias, self.A, self.B, self.s)
        return self.compute(layer(x), x)

    def fuses(self, layer: nn.Module, x: Tensor) -> bool:
        r"""Whether layer and branch can be one operation: nothing but $Wx + b$, one precision, no dropout."""
        return (
            type(layer) is nn.Linear
            and layer.weight.dtype == self.A.dtype == x.dtype
            and not (layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad))
            and not (self.training and isinstance(self.dropout, nn.Dropout))
            # Somebody's hook, or an offloaded layer, wants the layer itself to be called.
            and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)
            and "forward" not in layer.__dict__
            and autocast_dtype(x) is None
        )

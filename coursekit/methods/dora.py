r"""DoRA: Weight-Decomposed Low-Rank Adaptation (Liu et al. 2024, arXiv:2402.09353).

$$h = \frac{m}{\lVert W \rVert} W x, \quad W = W_0 + sBA, \quad m \in \mathbb{R}^{d_{out}}$$

LoRA turns the rows of $W_0$; m, learned apart, says how long they are. It starts as $\lVert W_0 \rVert$, so that the
start is exactly no change.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from coursekit.methods.mechanism.branch import Branch, Branched


class DoRAMixin(Branch):
    r"""Mixin that turns a LoRA branch (A, B, s, `delta`, `dropout`) into DoRA; list it before `LoRABranch`."""

    def __init__(self, layer: Branched, method: Any):
        super().__init__(layer, method)
        self.frozen = (layer,)  # in a tuple: as an attribute it would be part of its own part
        self.m = nn.Parameter(row_norm(layer.W.to(self.A.dtype) + self.delta))

    def forward(self, y: Float[Tensor, "*batch out"], x: Shaped[Tensor, "*input"]) -> Float[Tensor, "*batch out"]:
        r"""Equation 5 as y and a change: $h = y + (k - 1) W_0 x + k\,sBAx$ with $k = m / \lVert W \rVert$."""
        W0x, BAx = self.products(y, x)
        W = self.frozen[0].W.to(self.A.dtype) + self.delta
        k = self.m / row_norm(W).detach()  # (out,); the norm is a constant for the gradient (section 4.3)
        return y + ((k - 1) * W0x + k * BAx * self.s)

    def products(
        self, y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"]
    ) -> tuple[Float[Tensor, "*batch out"], Float[Tensor, "*batch out"]]:
        r"""$W_0 x$ and $B(Ax)$; under dropout both read the dropped x, as in peft."""
        (layer,), dropped, own = self.frozen, self.dropout(x), self.A.dtype
        if dropped is x and layer.base_layer is layer.unwrapped:  # else another method's bias may be in y
            W0x = y if layer.unwrapped.bias is None else y - layer.unwrapped.bias
        else:
            W0x = F.linear(dropped.to(own), layer.W.to(own))  # (*batch, in)(in, out)
        return W0x, F.linear(F.linear(dropped.to(own), self.A), self.B)  # (*batch, in)(in, r)(r, out)

    def compute(self, y: Float[Tensor, "*batch out"], x: Shaped[Tensor, "*input"]) -> Float[Tensor, "*batch out"]:
        return self(y, x).to(y.dtype)  # x is dropped out before it comes to the branch's precision, as in peft

    def merged(self, W: Float[Tensor, "out in"], b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        r"""$\frac{m}{\lVert W \rVert} W$, rounded once."""
        moved = W + self.delta
        return ((self.m / row_norm(moved))[:, None] * moved).to(W.dtype), b


def row_norm(W: Float[Tensor, "out in"]) -> Float[Tensor, " out"]:
    r"""Length of each row of W: what DoRA calls the magnitude of each output."""
    return torch.linalg.norm(W, dim=1)

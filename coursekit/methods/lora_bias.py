r"""A bias beside B: peft's `lora_bias`, for what a LoRA is to take over from a layer that has one.

$$h = W_0 x + \frac{\alpha}{r}(B A x + b), \quad b \in \mathbb{R}^{d_{out}}$$
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.methods.mechanism.branch import Branch, Branched


class LoRABiasMixin(Branch):
    r"""Mixin that adds a bias to a LoRA branch (A, B, s, `dropout`); list it before `LoRABranch`."""

    def __init__(self, layer: Branched, method: Any):
        super().__init__(layer, method)
        self.b = nn.Parameter(torch.zeros_like(self.B[:, 0]))  # (out,)

    def forward(
        self, y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"]
    ) -> Float[Tensor, "*batch out"]:
        r"""$h = W_0 x + s\,(B(Ax) + b)$, where y is $W_0 x$."""
        return y + F.linear(F.linear(self.dropout(x), self.A), self.B, self.b) * self.s

    def merged(self, W: Float[Tensor, "out in"], b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        r"""$W_0 + sBA$ and $b_0 + sb$."""
        if b is None:
            raise CourseError(
                "lora_bias=True does not merge into a layer that has no bias: keep the adapter attached, or train "
                "without lora_bias"
            )
        return super().merged(W, b)[0], (b + self.b * self.s).to(b.dtype)

r"""A linear layer that has only some of its weights: the others are no parameters at all, so nothing can move them."""

from __future__ import annotations

from typing import TypeAlias

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class PrunedLinear(nn.Module):
    r"""$(M \odot W)x + b$, where $M \odot W$ is held as the list of the weights at which the mask $M$ is 1.

    values: (kept,), the weights that stayed, which train. index: (kept,), where in W they stand, row after row.

    A pruned weight has no gradient and no optimizer state. It is 0 whatever an optimizer, its memory of the time
    before or a weight decay do, because each forward pass writes the kept values into a matrix of zeros.
    """

    def __init__(
        self, values: Float[Tensor, " kept"], index: Int[Tensor, " kept"], shape: tuple[int, int], bias: nn.Parameter
    ):
        super().__init__()
        self.out_features, self.in_features = shape
        self.values, self.bias = nn.Parameter(values), bias
        self.register_buffer("index", index, persistent=False)

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        r"""$M \odot W$, with exact zeros. Its gradient goes to the values."""
        whole = self.values.new_zeros(self.out_features * self.in_features)
        return whole.scatter_(0, self.index, self.values).view(self.out_features, self.in_features)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return F.linear(x, self.weight, self.bias)


Projection: TypeAlias = nn.Linear | PrunedLinear


def learned(layer: Projection) -> nn.Parameter:
    r"""The trainable weights of a projection, bias aside: W, or the values that pruning left of it."""
    return layer.values if isinstance(layer, PrunedLinear) else layer.weight


def among_learned(whole: Float[Tensor, "out in"], layer: Projection) -> Float[Tensor, "*shape"]:
    r"""The entries of a matrix as large as W that belong to the trainable weights, in their shape."""
    return whole.flatten()[layer.index] if isinstance(layer, PrunedLinear) else whole


def prune(layer: Projection, mask: Bool[Tensor, "*shape"]) -> PrunedLinear:
    r"""`layer` with those of its weights that `mask`, of the shape of the trainable ones, leaves. Shares the bias."""
    old = learned(layer).detach().flatten()
    index = mask.flatten().nonzero().flatten().to(old.device)
    there = layer.index[index] if isinstance(layer, PrunedLinear) else index
    return PrunedLinear(old[index], there, (layer.out_features, layer.in_features), layer.bias)

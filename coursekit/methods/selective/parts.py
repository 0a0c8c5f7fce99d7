r"""Parts of a frozen tensor that train: rows or columns of a matrix, or single entries anywhere in a tensor.

$$\tilde W = W \text{ with the values } \theta \text{ at the places } I, \qquad y = \tilde W x + b$$

What trains is $\theta$, a small parameter of its own. All other entries are in no parameter that trains: no gradient,
no moment of an optimizer and no weight decay can reach them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from coursekit.methods.mechanism.branch import adapter_dtype


class Part(nn.Module, ABC):
    r"""The entries at `index` of one tensor W, as values that train in their place.

    transposed: the tensor is $W^\top$, as GPT-2's Conv1D stores it. Rows and columns are those of W, (out, in).
    The values start as the tensor's own. On a 16-bit base they are fp32, and rounded where W is put together.
    """

    #: What a checkpoint calls the values, behind the name of the tensor.
    key: str
    #: Kind of the method that it is of.
    method: str | None = None

    def __init__(self, tensor: Tensor, index: Int[Tensor, " k"], transposed: bool = False):
        super().__init__()
        self.transposed = transposed
        self.register_buffer("index", index.to(tensor.device), persistent=False)
        dtype = adapter_dtype(tensor.dtype)
        with torch.no_grad():
            own = self.taken(tensor).to(dtype, copy=True, memory_format=torch.contiguous_format)
        self.values = nn.Parameter(own)

    @abstractmethod
    def taken(self, tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*values"]:
        r"""The entries of `tensor` at the part's places, in the shape of the values."""

    @abstractmethod
    def written(self, tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r"""A new tensor: `tensor` with the values at the part's places. Its gradient goes to the values."""

    @abstractmethod
    def gradient(self, g: Float[Tensor, "n out"], x: Float[Tensor, "n in"]) -> Float[Tensor, "*values"]:
        r"""The part of $\partial L/\partial W = g^\top x$ that belongs to the values, for n tokens."""

    def product(
        self, x: Float[Tensor, "*batch in"], tensor: Float[Tensor, "*shape"], b: Float[Tensor, " out"] | None
    ) -> Float[Tensor, "*batch out"]:
        r"""$\tilde W x + b$, where $\tilde W$ is `tensor` with the values in their places.

        By the operation, and so with the bits, of the layer that the tensor stands in, `nn.Linear` or `Conv1D`.
        """
        W = self.written(tensor)
        if not self.transposed:
            return F.linear(x, W, b)
        return torch.addmm(b, x.reshape(-1, x.shape[-1]), W).view(*x.shape[:-1], W.shape[1])

    def back(self, g: Float[Tensor, "n out"], tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "n in"]:
        r"""$\partial L/\partial x = g \tilde W$ for n tokens."""
        W = self.written(tensor)
        return g @ (W.t() if self.transposed else W)  # (n, out)(out, in) -> (n, in)


class Entries(Part):
    r"""Single entries, (k,), at positions of the tensor as it is stored, row after row."""

    key = ".values"

    def taken(self, tensor: Float[Tensor, "*shape"]) -> Float[Tensor, " k"]:
        return tensor.reshape(-1).index_select(0, self.index)

    def written(self, tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return tensor.reshape(-1).index_copy(0, self.index, self.values.to(tensor.dtype)).view(tensor.shape)

    def gradient(self, g: Float[Tensor, "n out"], x: Float[Tensor, "n in"]) -> Float[Tensor, " k"]:
        r"""From the dense product, which lives no longer than this line."""
        return self.taken(x.t() @ g if self.transposed else g.t() @ x)


class PartProduct(torch.autograd.Function):
    r"""$\tilde W x + b$ for a $\tilde W$ that is the frozen weight of `layer` with a part of it replaced.

    Plain autograd gives the same numbers. It also keeps $\tilde W$, a copy of the weight, from the forward to the
    backward pass, and computes the gradient of all of it. Here $\tilde W$ is put together again where it is needed,
    and of the gradient of rows and columns only those are computed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*batch in"],
        values: Float[Tensor, "*values"],  # of `part`: an argument, for autograd to see
        b: Float[Tensor, " out"] | None,
        layer: nn.Module,
        part: Part,
    ) -> Float[Tensor, "*batch out"]:
        ctx.save_for_backward(x, values)
        ctx.layer, ctx.part = layer, part
        return part.product(x, layer.weight.to(x.dtype), b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, "*batch out"]) -> tuple[Tensor | None, ...]:
        x, values = ctx.saved_tensors
        part, dx, dvalues, db = ctx.part, None, None, None
        g_flat = g.reshape(-1, g.shape[-1])  # (*batch, out) -> (n, out)
        if ctx.needs_input_grad[0]:
            dx = part.back(g_flat, ctx.layer.weight.to(g.dtype)).view(x.shape)
        if ctx.needs_input_grad[1]:
            dvalues = part.gradient(g_flat, x.reshape(-1, x.shape[-1])).to(values.dtype)
        if ctx.needs_input_grad[2]:
            db = g_flat.sum(0)
        return dx, dvalues, db, None, None


def transposed(layer: nn.Module) -> bool:
    r"""Whether `layer.weight` is $W^\top$."""
    return isinstance(layer, Conv1D)

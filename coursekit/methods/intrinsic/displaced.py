r"""A frozen layer that computes with moved weights, and the operation that moves them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from coursekit.methods.intrinsic.directions import Directions
from coursekit.methods.intrinsic.fastfood import Fastfood
from coursekit.methods.mechanism.attachment import by_rows
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper


class Displace(torch.autograd.Function):
    r"""$\theta_i = \theta_{0,i} + \lambda_i F(v)_i$ for the tensors of one group i, as a single operation.

    The gradient of every weight comes back to here and no further: for one group at a time it becomes the d entries of
    $\partial L/\partial v = \lambda_i F_i^\top \partial L/\partial\theta_i$ and is dropped. F(v) is not kept, for
    $\partial L/\partial\lambda_i = F(v)_i \cdot \partial L/\partial\theta_i$ is also a product of two vectors of n
    entries: $w = \Pi H \operatorname{pad}(S \odot v)$ and what the adjoint has made of the gradient by then.
    """

    @staticmethod
    def forward(
        ctx: Any,
        v: Float[Tensor, " d"],
        scale: Float[Tensor, ""] | None,  # λ of the group; None: 1
        F: Fastfood,
        group: int,
        *frozen: Tensor,
    ) -> tuple[Tensor, ...]:
        w = F.mixed(v)
        moved = F.rows(w if scale is None else w * scale, group)
        ctx.save_for_backward(w, scale)
        ctx.F, ctx.group, ctx.sizes = F, group, [theta.numel() for theta in frozen]
        ctx.set_materialize_grads(False)
        parts = moved.split(ctx.sizes)
        # A 16-bit base gets the sum rounded once, as mixed precision does with its fp32 master weights.
        return tuple(
            (theta + part.view(theta.shape).to(theta.device)).to(theta.dtype)
            for theta, part in zip(frozen, parts, strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        w, scale = ctx.saved_tensors
        parts = [
            w.new_zeros(size) if g is None else g.to(w.device, w.dtype)
            for g, size in zip(gradients, ctx.sizes, strict=True)
        ]
        a = ctx.F.unrows(ctx.F.padded(parts, ctx.group), ctx.group)
        dv = ctx.F.unmixed(a if scale is None else a * scale)
        return dv, None if scale is None else w @ a, None, None, *(None for _ in ctx.sizes)


class Place(NamedTuple):
    r"""Where a moved tensor comes from: the `index`-th of a group."""

    group: int
    index: int  # type: ignore[assignment]  # a tuple has a method of this name


class ReparametrizedLayer(AdapterWrapper):
    r"""A frozen layer that computes with moved weights in the place of its own, which are not written to.

    places: name of a parameter of the layer -> where its moved values come from; the others stay as they are.
    """

    order = 0

    def __init__(self, layer: nn.Module, switch: AdapterState, places: dict[str, Place], directions: Directions):
        super().__init__(layer, switch)
        self.places = places
        self.directions = (directions,)  # in a tuple: as an attribute it would be part of each layer

    @property
    def weight(self) -> Tensor:
        r"""The weight that the layer computes with, for code that takes it from here (DeBERTa's relative positions)."""
        name, directions = self.switch.active, self.directions[0]
        if self.switch.rows is not None or name not in directions.subspaces or "weight" not in self.places:
            return self.base_layer.weight
        place = self.places["weight"]
        return directions.weights(name, place.group)[place.index]

    def moved(self, name: str) -> dict[str, Tensor]:
        r"""The tensors that take the place of the layer's own, for adapter `name`."""
        directions = self.directions[0]
        return {key: directions.weights(name, place.group)[place.index] for key, place in self.places.items()}

    def answer(self, name: str | None, *args: Any, **kwargs: Any) -> Tensor:
        r"""The output of the layer with the weights of adapter `name`, or with its own."""
        if name not in self.directions[0].subspaces:
            return self.base_layer(*args, **kwargs)
        with _padding_moves(self.base_layer):
            return functional_call(self.base_layer, self.moved(name), args, kwargs)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.switch.rows is None:
            return self.answer(self.switch.active, x, *args, **kwargs)
        if isinstance(self.base_layer, nn.Embedding):
            return self._embedded(x, *args, **kwargs)
        return by_rows(self.switch, self.answer, x)

    def _embedded(self, *args: Any, **kwargs: Any) -> Tensor:
        r"""The vectors of a mixed batch: positions are looked up once for all rows, or from a mask."""
        rows = self.switch.rows.size
        wide = {name: self.answer(name, *args, **kwargs) for name in self.switch.rows}
        wide = {name: y.expand(rows, *y.shape[1:]) if len(y) == 1 else y for name, y in wide.items()}
        first = next(iter(wide.values()))
        y = torch.empty_like(first, memory_format=torch.contiguous_format)
        for name, index in self.switch.parts(first):
            y = y.index_copy(0, index, wide[name][index])
        return y


@contextlib.contextmanager
def _padding_moves(layer: nn.Module) -> Iterator[None]:
    r"""PyTorch gives the row of the padding token no gradient. F moves it like all others, so it has one here."""
    padding = getattr(layer, "padding_idx", None) if isinstance(layer, nn.Embedding) else None
    if padding is None:
        yield
        return
    layer.padding_idx = None
    try:
        yield
    finally:
        layer.padding_idx = padding

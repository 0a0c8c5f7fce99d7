r"""Layers whose weights are the frozen ones moved along the directions of one vector that the whole model shares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from coursekit.methods.intrinsic.fastfood import Fastfood
from coursekit.methods.mechanism.switch import Switch, Switched


class Displace(torch.autograd.Function):
    r"""$\theta_i = \theta_{0,i} + \lambda_i F(v)_i$ for the tensors of one group i, as a single operation.

    The gradient of every weight comes back to here and no further: for one group at a time it is turned into the d
    numbers $\partial L/\partial v = \lambda_i F_i^\top \partial L/\partial\theta_i$ and dropped. F(v) is not kept, for
    $\partial L/\partial\lambda_i = F(v)_i \cdot \partial L/\partial\theta_i$ is also the product of n numbers with n:
    $w = \Pi H B \operatorname{pad}(v)$ and what the adjoint has made of the gradient by then.
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
    def backward(ctx: Any, *gradients: Tensor | None):
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
    index: int


@dataclass
class Held:
    r"""Moved weights that were computed, and for what: they serve as long as nothing of that has changed."""

    key: tuple[Any, ...] = ()
    weights: dict[tuple[str, int], tuple[Tensor, ...]] = field(default_factory=dict)


class Directions(Switched):
    r"""v and λ of each adapter, and the weights that they make, a group of them at a time.

    groups: the frozen tensors of each group, as (module, name in it).

    In training a group is computed when the forward pass comes to its first layer, once a pass, and once more where
    checkpointing recomputes a block. Without gradients it is kept until something changes: a text is then generated,
    or a test set answered, with weights that are computed once. (What is written through `.data` is no change that
    PyTorch could tell: write in place, under `torch.no_grad()`.)
    """

    def __init__(self, groups: list[list[tuple[nn.Module, str]]], switch: Switch):
        super().__init__(None, switch)
        self.v, self.scales = nn.ParameterDict(), nn.ParameterDict()
        self.fastfood: dict[str, Fastfood] = {}
        self.groups = groups
        self.held, self.passes = Held(), 0
        self.passing = 0  # inside a forward pass: its number, else 0
        self.whole = False  # it is one of the whole model, not of its body alone

    def add(self, name: str, F: Fastfood, scales: int) -> list[nn.Parameter]:
        r"""v = 0 for adapter `name`, and so many λ = 1: the weights are the frozen ones to the bit."""
        weight = self.groups[0][0][0]._parameters[self.groups[0][0][1]]
        # A 16-bit base gets fp32 numbers: near 1, bf16 moves λ in steps of 1/128.
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        kind = dict(device=weight.device, dtype=dtype)
        self.v[name] = nn.Parameter(torch.zeros(F.d, **kind))
        if scales:
            self.scales[name] = nn.Parameter(torch.ones(scales, **kind))
        # Adapters with the same directions share what was drawn for them.
        self.fastfood[name] = next((known for known in self.fastfood.values() if known == F), F)
        return [self.v[name], *([self.scales[name]] if scales else [])]

    def forget(self, name: str) -> None:
        super().forget(name)
        self.fastfood.pop(name, None)
        self.held = Held()

    def begin(self, _model: nn.Module, _args: Any) -> None:
        r"""Hook before the model's forward pass, whatever became of the one before."""
        self.passes += 1
        self.passing, self.whole = self.passes, True

    def end(self, _model: nn.Module, _args: Any, _answer: Any) -> None:
        r"""Hook after it, also where it fails. What autograd needs it has; nothing is to be used twice."""
        self.passing, self.whole = 0, False
        if torch.is_grad_enabled():
            self.held = Held()

    def begin_body(self, body: nn.Module, args: Any) -> None:
        r"""Hook before the body's forward pass: it may be called on its own."""
        if not self.whole:
            self.begin(body, args)
            self.whole = False

    def end_body(self, body: nn.Module, args: Any, answer: Any) -> None:
        r"""Hook after it. A tied output layer, outside of the body, still needs its weights."""
        if not self.whole:
            self.end(body, args, answer)

    def weights(self, name: str, group: int) -> tuple[Tensor, ...]:
        r"""The moved tensors of a group for adapter `name`."""
        key = self._key(group)
        if key is None:  # a layer called on its own: nothing says how long the graph would serve
            return self._made(name, group)
        if key != self.held.key:
            self.held = Held(key)
        if (name, group) not in self.held.weights:
            self.held.weights[name, group] = self._made(name, group)
        return self.held.weights[name, group]

    def _made(self, name: str, group: int) -> tuple[Tensor, ...]:
        scale = self.scales[name][group] if name in self.scales else None
        frozen = [module._parameters[key] for module, key in self.groups[group]]
        return Displace.apply(self.v[name], scale, self.fastfood[name], group, *frozen)

    def _key(self, group: int) -> tuple[Any, ...] | None:
        r"""What held weights are for: this forward pass, this backward pass, or these very numbers."""
        if torch.is_grad_enabled():
            if self.passing:
                return ("pass", self.passing)
            backward = torch._C._current_graph_task_id()  # -1 outside of a backward pass
            return None if backward < 0 else ("recomputed", backward, group)
        numbers = [*self.parameters(), *(m._parameters[key] for part in self.groups for m, key in part)]
        return ("numbers", torch.is_inference_mode_enabled(), *((p.data_ptr(), p._version) for p in numbers))

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model computes its own weights.
        return self.__dict__ | {"held": Held(), "passing": 0, "whole": False}


class DisplacedLayer(Switched):
    r"""A frozen layer that computes with moved weights in the place of its own, which are not written to.

    places: name of a parameter of the layer -> where its moved values come from; the others stay as they are.
    """

    order = 0

    def __init__(self, layer: nn.Module, switch: Switch, places: dict[str, Place], directions: Directions):
        super().__init__(layer, switch)
        self.places = places
        self.directions = (directions,)  # in a tuple: as an attribute it would be part of each layer

    @property
    def weight(self) -> nn.Parameter:
        r"""The frozen weight, for code that looks at `layer.weight`."""
        return self.base_layer.weight

    def moved(self, name: str) -> dict[str, Tensor]:
        r"""The tensors that take the place of the layer's own, for adapter `name`."""
        directions = self.directions[0]
        return {key: directions.weights(name, place.group)[place.index] for key, place in self.places.items()}

    def answer(self, name: str | None, *args: Any, **kwargs: Any) -> Tensor:
        r"""What the layer answers with the weights of adapter `name`, or with its own."""
        if name not in self.directions[0].v:
            return self.base_layer(*args, **kwargs)
        with _padding_moves(self.base_layer):
            return functional_call(self.base_layer, self.moved(name), args, kwargs)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.switch.rows is None:
            return self.answer(self.switch.active, x, *args, **kwargs)
        rows = sum(map(len, self.switch.rows.values()))
        if isinstance(
            self.base_layer, nn.Embedding
        ):  # positions are looked up once for all rows, or from a mask
            answers = {name: self.answer(name, x, *args, **kwargs) for name in self.switch.rows}
            wide = {name: y.expand(rows, *y.shape[1:]) if len(y) == 1 else y for name, y in answers.items()}
            first = next(iter(wide.values()))
            y = torch.empty_like(first, memory_format=torch.contiguous_format)
            for name, index in self.switch.parts(first):
                y = y.index_copy(0, index, wide[name][index])
            return y
        flat = x.dim() == 2 and len(x) % rows == 0  # OPT's feed-forward gets (batch * seq, width)
        by_row = x.view(rows, -1, x.shape[-1]) if flat else x
        parts = {name: self.answer(name, by_row[index]) for name, index in self.switch.parts(by_row)}
        first = next(iter(parts.values()))
        y = first.new_empty(rows, *first.shape[1:])
        for name, index in self.switch.parts(by_row):
            y = y.index_copy(0, index, parts[name])
        return y.view(len(x), -1) if flat else y


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

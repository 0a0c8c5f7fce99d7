r"""The moved weights of a model, kept while they are valid; the operation that moves them; layers that use them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from coursekit.methods.intrinsic.fastfood import Fastfood
from coursekit.methods.mechanism.anatomy import anatomy
from coursekit.methods.mechanism.attachment import by_rows
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper, named_base_modules, output_layer

#: Tensors of one group, as (module of the bare model, name in it).
Group = list[tuple[nn.Module, str]]


def groups_of(model: nn.Module, parts: str) -> list[Group]:
    r"""parts: "all", or "blocks": without the last group. A tied tensor counts once, where the body has it first."""
    shapes, seen = anatomy(model), set()
    blocks: list[Group] = [[] for _ in shapes.blocks]
    rest: Group = []
    output = output_layer(model)  # T5's lies in what transformers calls its body
    for path, module in frozen_modules(model.base_model).items():
        if module is output:
            continue
        inside = shapes.inside(path)
        group = rest if inside is None else blocks[inside]
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                group.append((module, key))
    return [*blocks, rest] if parts == "all" else blocks


def size(group: Group) -> int:
    r"""How many weights a group has."""
    return sum(module._parameters[key].numel() for module, key in group)


def frozen_modules(module: nn.Module) -> dict[str, nn.Module]:
    r"""Every module of the bare model that has parameters of its own, by path."""
    return {p: m for p, m in named_base_modules(module) if m._parameters and not isinstance(m, AdapterWrapper)}


@dataclass
class Held:
    r"""Moved weights that were computed, and for what: they serve as long as nothing of that has changed."""

    key: tuple[Any, ...] = ()
    weights: dict[tuple[str, int], tuple[Tensor, ...]] = field(default_factory=dict)


class Directions(AdapterWrapper):
    r"""The subspace of each adapter, and the weights that it makes, a group of them at a time.

    A group's weights are computed when its first layer is reached, and serve

        gradients, inside a forward pass           until the pass ends
        gradients, a block that is recomputed      for that block in that backward pass (activation checkpointing)
        gradients, a layer called on its own       for that call only
        no gradients                               until a parameter changes: once for a generated text or a test set

    (What is written through `.data` is no change that PyTorch could tell: write in place, under `torch.no_grad()`.)

    groups: the frozen tensors of each group.
    """

    def __init__(self, groups: list[Group], switch: AdapterState):
        super().__init__(None, switch)
        self.subspaces = nn.ModuleDict()  # by adapter
        self.groups = groups
        self.held, self.passes = Held(), 0
        self.passing = 0  # inside a forward pass: its number, else 0
        self.whole = False  # it is one of the whole model, not of its body alone

    def weights(self, name: str, group: int) -> tuple[Tensor, ...]:
        r"""The moved tensors of a group for adapter `name`."""
        key = self._key(group)
        if key is None:
            return self._made(name, group)
        if key != self.held.key:
            self.held = Held(key)
        if (name, group) not in self.held.weights:
            self.held.weights[name, group] = self._made(name, group)
        return self.held.weights[name, group]

    def _made(self, name: str, group: int) -> tuple[Tensor, ...]:
        return self.subspaces[name].fast(group, *(m._parameters[key] for m, key in self.groups[group]))

    def _key(self, group: int) -> tuple[Any, ...] | None:
        r"""What held weights are for, the table above: None is for this call only."""
        if torch.is_grad_enabled():
            if self.passing:
                return ("pass", self.passing)
            backward = torch._C._current_graph_task_id()  # -1 outside of a backward pass
            return None if backward < 0 else ("recomputed", backward, group)
        now = [*self.parameters(), *(m._parameters[key] for part in self.groups for m, key in part)]
        return ("values", torch.is_inference_mode_enabled(), *((p.data_ptr(), p._version) for p in now))

    def forget(self, name: str) -> None:
        super().forget(name)
        self.held = Held()

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model computes its own weights.
        return self.__dict__ | {"held": Held(), "passing": 0, "whole": False}

    # Where a forward pass begins and ends ---------------------------------------------------------------------------

    def hook(self, model: nn.Module) -> list[Any]:
        r"""Place the hooks on the model and on its body, which may be called on its own; gives their handles."""
        handles = self._hooked(model, self.begin, self.end)
        if model.base_model is not model:
            handles += self._hooked(model.base_model, self.begin_body, self.end_body)
        return handles

    def _hooked(self, module: nn.Module, begin: Callable, end: Callable) -> list[Any]:
        # The outer ones around everything else that hangs on the model; the end also after an error.
        return [
            module.register_forward_pre_hook(begin, prepend=True),
            module.register_forward_hook(end, always_call=True),
        ]

    def begin(self, _model: nn.Module, _args: Any) -> None:
        self.passes += 1
        self.passing, self.whole = self.passes, True  # whatever became of the pass before

    def end(self, _model: nn.Module, _args: Any, _output: Any) -> None:
        self.passing, self.whole = 0, False
        if torch.is_grad_enabled():  # what autograd needs it has; nothing is to be used twice
            self.held = Held()

    def begin_body(self, body: nn.Module, args: Any) -> None:
        if not self.whole:
            self.begin(body, args)
            self.whole = False

    def end_body(self, body: nn.Module, args: Any, output: Any) -> None:
        if not self.whole:  # else a tied output layer, outside of the body, still needs its weights
            self.end(body, args, output)


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

r"""Computes the moved weights of a model, and keeps them for as long as they are valid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.methods.mechanism.anatomy import anatomy
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

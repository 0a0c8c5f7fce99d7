r"""What attaching changed in one model, and which of its adapters answers.

A method keeps no state: all of it is in one `Attachment` per model, so that several named adapters can live on one
frozen base, be switched, and be taken off again without a trace.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from coursekit.errors import CourseError, unknown
from coursekit.methods.mechanism import modules
from coursekit.methods.mechanism.modules import T, replace
from coursekit.methods.mechanism.switch import Switch

#: A `Method` of `mechanism.method`, which stands above this file: it attaches by what is here.
Method = Any


@dataclass
class Attachment:
    r"""All that attaching changed in one model, and how to undo it."""

    switch: Switch
    flags: dict[str, bool]  # requires_grad of every parameter before the first attach
    methods: dict[str, Method] = field(default_factory=dict)  # by adapter name
    originals: dict[str, nn.Module] = field(default_factory=dict)  # path -> the bare module there
    parameters: dict[str, list[nn.Parameter]] = field(default_factory=dict)  # by adapter name: what trains
    added: list[str] = field(default_factory=list)  # paths of modules put where there was none
    hooks: list[RemovableHandle] = field(default_factory=list)
    merged: Any = None  # while merged: what `unmerge` puts back (`merge.Kept`)


def find_attachment(model: nn.Module) -> Attachment | None:
    return getattr(model, "_coursekit", None)


def attachment_of(model: nn.Module) -> Attachment:
    state = find_attachment(model)
    if state is None:
        raise CourseError("no method is attached to this model; call method.attach(model) first")
    return state


def unmerged(model: nn.Module) -> Attachment:
    r"""The state of a model whose adapters stand beside its weights; CourseError where one is folded in."""
    state = attachment_of(model)
    if state.merged is not None:
        raise CourseError("an adapter is merged into this model's weights; call unmerge(model) first")
    return state


def beside(model: nn.Module, state: Attachment, path: str, module: nn.Module) -> nn.Module:
    r"""Put `module` at `path`, where there was none; `detach` takes it out again. Gives the one that is there."""
    if path in state.added:
        return model.get_submodule(path)
    state.added.append(path)
    replace(model, path, module)
    return module


def wrap(model: nn.Module, state: Attachment, path: str, kind: type[T], *args: Any) -> T:
    r"""Put a new `kind(inside, switch, *args)` around what stands at `path`; `detach` takes it off again."""
    wrapper = modules.wrap(model, path, kind, state.switch, *args)
    state.originals.setdefault(path, wrapper.bare)
    return wrapper


def attached(model: nn.Module) -> dict[str, Method]:
    r"""The adapters on `model`, by name."""
    state = find_attachment(model)
    return dict(state.methods) if state else {}


def activate(model: nn.Module, name: str | None) -> nn.Module:
    r"""Let adapter `name` answer and train; None: the bare base answers and nothing trains."""
    state = unmerged(model)
    if name is not None and name not in state.methods:
        raise unknown("adapter", name, state.methods)
    state.switch.active = name
    for other, parameters in state.parameters.items():
        for parameter in parameters:
            parameter.requires_grad_(other == name)
    return model


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    r"""The base model, for the length of a `with`: the reference model that costs no second copy."""
    with unmerged(model).switch.only(None):
        yield model


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    r"""The parameters of `model` that require a gradient, by layer and letter, such as "layers.0.q_proj.A".

    The name of the adapter is left out: so one adapter's parameters have the names that another's have.
    """
    found = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    return {re.sub(r"\.branches\.[^.]+", "", name): p for name, p in found}


def trainable(model: nn.Module) -> int:
    r"""Counted, not derived: how many parameters of `model` require a gradient, task head included."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)

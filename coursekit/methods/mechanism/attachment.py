r"""The adapters of one model: names, switching, and several of them in one batch.

A method keeps no state: all of it is in one `Attachment` per model, so that several named adapters can live on one
frozen base, be switched, and be taken off again without a trace. In a batch with an adapter for each row, `mixed_batch`
says which adapter answers which row, and `by_rows` is how a layer follows it:

    names         ["film", None, "film"]
    switch.rows   {"film": [0, 2], None: [1]}
    outputs       answer("film", x[[0, 2]])    answer(None, x[[1]])     -> put together, row by row
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from coursekit.errors import CourseError, one_of, unknown
from coursekit.methods.mechanism import modules
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper, MixedRows, T, replace

#: A `Method` of `mechanism.method`, which stands above this file: it attaches by what is here.
Method = Any

#: Model types whose attention layers get vectors of positions that belong to no row.
POSITIONS_WITHOUT_ROWS = ("deberta", "deberta-v2")


@dataclass
class Attachment:
    r"""All that attaching changed in one model, and how to undo it."""

    switch: AdapterState
    flags: dict[str, bool]  # requires_grad of every parameter before the first attach
    methods: dict[str, Method] = field(default_factory=dict)  # by adapter name
    originals: dict[str, nn.Module] = field(default_factory=dict)  # path -> the base module
    parameters: dict[str, list[nn.Parameter]] = field(default_factory=dict)  # by adapter name: those that train
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


def name_of(model: nn.Module, name: str | None) -> str:
    r"""`name`, or where it is None the active adapter or the first. CourseError for one that `model` does not have."""
    state = attachment_of(model)
    return one_of("adapter", name or state.switch.active or next(iter(state.methods)), state.methods)


def unmerged(model: nn.Module) -> Attachment:
    r"""The state of a model with no adapter merged; CourseError where one is."""
    state = attachment_of(model)
    if state.merged is not None:
        raise CourseError("an adapter is merged into this model's weights; call unmerge(model) first")
    return state


def add_module(model: nn.Module, state: Attachment, path: str, module: nn.Module) -> nn.Module:
    r"""Put `module` at `path`, where there was none, until `detach`; gives the one that is there by now."""
    if path in state.added:
        return model.get_submodule(path)
    state.added.append(path)
    replace(model, path, module)
    return module


def wrap(model: nn.Module, state: Attachment, path: str, kind: type[T], *args: Any) -> T:
    r"""Put a new `kind(wrapped, switch, *args)` around the module at `path`, until `detach`."""
    wrapper = modules.wrap_module(model, path, kind, state.switch, *args)
    state.originals.setdefault(path, wrapper.unwrapped)
    return wrapper


# Switching ------------------------------------------------------------------------------------------------------------


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


# Rows of one batch ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mixed_batch(model: nn.Module, names: Sequence[str | None]) -> Iterator[nn.Module]:
    r"""Different adapters for different rows of one batch: row i of the batch is answered by `names[i]`.

    Shapes: a batch of `len(names)` rows; None in `names` is the base.
    """
    state, names = unmerged(model), list(names)
    for name in names:
        if name is not None and name not in state.methods:
            raise unknown("adapter", name, state.methods)
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind in POSITIONS_WITHOUT_ROWS and _wraps_inside(model):
        raise CourseError(
            "DeBERTa sends its relative positions through the layers of its attention once for all rows of a batch, so "
            "they cannot be answered by several adapters: give each adapter a batch of its own"
        )
    before = state.switch.rows
    state.switch.rows = MixedRows(names, next(model.parameters()).device)
    # The whole batch is looked at: a layer that gets all tokens in one dimension cannot tell how many rows they are of.
    hook = model.register_forward_pre_hook(partial(_of_the_batch, state.switch), with_kwargs=True)
    try:
        yield model
    finally:
        hook.remove()
        state.switch.rows = before


def by_rows(switch: AdapterState, answer: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    r"""Output of a layer: `answer(name, *tensors)` of the active adapter; in a mixed batch each row from its own.

    answer: gets the name of an adapter (None: the base) and its rows of each tensor, and gives as many rows.
    Shapes: the first dimension of every tensor is the batch. OPT's feed-forward gets all tokens in one dimension,
    (batch * seq, width): `answer` sees (rows, seq, width) of it, and what comes back is flat again.

    Raises CourseError for a batch of another number of rows, and where adapters answer in different shapes.
    """
    rows = switch.rows
    if rows is None:
        return answer(switch.active, *tensors)
    # GPT-2 looks positions up once for the whole batch: one row stands for all.
    tensors = tuple(x.expand(rows.size, *x.shape[1:]) if len(x) == 1 else x for x in tensors)
    first, before = tensors[0], switch.part
    flat = first.dim() == 2 and first.is_floating_point() and len(first) != rows.size
    if flat and len(first) % rows.size == 0:
        tensors = tuple(x.view(rows.size, -1, x.shape[-1]) for x in tensors)
    switch.fits(tensors[0])
    sorted_rows = zip(*(x.index_select(0, rows.sort).split(rows.sizes) for x in tensors), strict=True)
    parts: dict[str | None, Tensor] = {}
    try:
        for (name, index), own in zip(rows.items(), sorted_rows, strict=True):
            switch.part = index
            parts[name] = answer(name, *own)
    finally:
        switch.part = before
    if len({part.shape[1:] for part in parts.values()}) > 1:
        sizes = ", ".join(f"{name}: {tuple(part.shape[1:])}" for name, part in parts.items())
        raise CourseError(f"rows of one batch need adapters and task heads of one size, these differ: {sizes}")
    y = torch.cat([*parts.values()]).index_select(0, rows.unsort)
    return y.flatten(0, 1) if flat else y


def _wraps_inside(model: nn.Module) -> bool:
    return any(isinstance(m, AdapterWrapper) and m.base_layer is not None for m in model.base_model.modules())


def _of_the_batch(switch: AdapterState, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    r"""Hook before a forward pass within `mixed_batch`: are there as many names as rows?"""
    given = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    x = next((tensor for tensor in given if isinstance(tensor, Tensor)), None)
    if x is not None and switch.rows is not None:
        switch.fits(x)

r"""Different adapters for different rows of one batch, on one frozen base.

`mixed_batch` says which adapter answers which row; `by_rows` is how a layer follows it:

    names         ["film", None, "film"]
    switch.rows   {"film": [0, 2], None: [1]}
    answers       answer("film", x[[0, 2]])    answer(None, x[[1]])     -> put together, row by row
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.errors import CourseError, unknown
from coursekit.methods.mechanism.attachment import unmerged
from coursekit.methods.mechanism.switch import Switch, Switched

#: Model types whose attention layers get vectors of positions that belong to no row.
POSITIONS_WITHOUT_ROWS = ("deberta", "deberta-v2")


@contextlib.contextmanager
def mixed_batch(model: nn.Module, names: Sequence[str | None]) -> Iterator[nn.Module]:
    r"""Different adapters for different rows of one batch: row i of the batch is answered by `names[i]`.

    Shapes: a batch of `len(names)` rows; None in `names` is the bare base.
    """
    state, names = unmerged(model), list(names)
    for name in names:
        if name is not None and name not in state.methods:
            raise unknown("adapter", name, state.methods)
    if getattr(
        getattr(model, "config", None), "model_type", None
    ) in POSITIONS_WITHOUT_ROWS and _stands_inside(model):
        raise CourseError(
            "DeBERTa sends its relative positions through the layers of its attention once for all rows of a batch, so "
            "they cannot be answered by several adapters: give each adapter a batch of its own"
        )
    device = next(model.parameters()).device
    before = state.switch.rows
    state.switch.rows = {
        name: torch.tensor([i for i, n in enumerate(names) if n == name], device=device)
        for name in dict.fromkeys(names)
    }
    # The whole batch is looked at: a layer that gets all tokens in one dimension cannot tell how many rows they are of.
    hook = model.register_forward_pre_hook(partial(_of_the_batch, state.switch), with_kwargs=True)
    try:
        yield model
    finally:
        hook.remove()
        state.switch.rows = before


def by_rows(switch: Switch, answer: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    r"""What a layer answers: `answer(name, *tensors)` of the active adapter, or in a mixed batch each row from its own.

    answer: gets the name of an adapter (None: the bare base) and its rows of each tensor, and gives as many rows.
    Shapes: the first dimension of every tensor is the batch. OPT's feed-forward gets all tokens in one dimension,
    (batch * seq, width): `answer` sees (rows, seq, width) of it, and what comes back is flat again.

    Raises CourseError for a batch of another number of rows, and where adapters answer in different shapes.
    """
    if switch.rows is None:
        return answer(switch.active, *tensors)
    # GPT-2 looks positions up once for the whole batch: one row stands for all.
    tensors = tuple(x.expand(switch.size, *x.shape[1:]) if len(x) == 1 else x for x in tensors)
    first, before = tensors[0], switch.part
    flat = first.dim() == 2 and first.is_floating_point() and len(first) != switch.size
    if flat and len(first) % switch.size == 0:
        tensors = tuple(x.view(switch.size, -1, x.shape[-1]) for x in tensors)
    parts: dict[str | None, Tensor] = {}
    try:
        for name, index in switch.parts(tensors[0]):
            switch.part = index
            parts[name] = answer(name, *(x[index] for x in tensors))
    finally:
        switch.part = before
    one = next(iter(parts.values()))
    if len({part.shape[1:] for part in parts.values()}) > 1:
        sizes = ", ".join(f"{name}: {tuple(part.shape[1:])}" for name, part in parts.items())
        raise CourseError(
            f"rows of one batch need adapters and task heads of one size, these differ: {sizes}"
        )
    y = one.new_empty(switch.size, *one.shape[1:])
    for name, index in switch.rows.items():
        y = y.index_copy(0, index, parts[name])
    return y.flatten(0, 1) if flat else y


def _stands_inside(model: nn.Module) -> bool:
    return any(isinstance(m, Switched) and m.base_layer is not None for m in model.base_model.modules())


def _of_the_batch(switch: Switch, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    r"""Hook before a forward pass within `mixed_batch`: are there as many names as rows?"""
    given = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    x = next((tensor for tensor in given if isinstance(tensor, Tensor)), None)
    if x is not None and switch.rows is not None:
        switch.fits(x)

r"""Different adapters for different rows of one batch, on one frozen base."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.errors import unknown
from coursekit.methods.mechanism.attachment import unmerged
from coursekit.methods.mechanism.switch import Switch


@contextlib.contextmanager
def mixed_batch(model: nn.Module, names: Sequence[str | None]) -> Iterator[nn.Module]:
    r"""Different adapters for different rows of one batch: row i of the batch is answered by `names[i]`.

    Shapes: a batch of `len(names)` rows; None in `names` is the bare base.
    """
    state, names = unmerged(model), list(names)
    for name in names:
        if name is not None and name not in state.methods:
            raise unknown("adapter", name, state.methods)
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


def _of_the_batch(switch: Switch, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    r"""Hook before a forward pass within `mixed_batch`: are there as many names as rows?"""
    given = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    x = next((tensor for tensor in given if isinstance(tensor, Tensor)), None)
    if x is not None and switch.rows is not None:
        switch.fits(x)

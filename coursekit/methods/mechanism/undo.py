r"""Attaching that takes several steps, all of them or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from coursekit.methods.mechanism.attachment import activate, attached, find_attachment
from coursekit.methods.mechanism.detach import remove


@contextlib.contextmanager
def undone_after_an_error(model: nn.Module, name: str) -> Iterator[None]:
    r"""Where attaching `name` is followed by something that fails, take it off again."""
    state, there = find_attachment(model), attached(model)
    active = state.switch.active if state else None
    try:
        yield
    except BaseException:
        if name in attached(model) and name not in there:
            remove(model, name)
            if state is not None:
                activate(model, active)
        raise

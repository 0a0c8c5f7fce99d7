r"""What precision a layer is to compute in."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    r"""The precision that autocast brings matrix products of `x` to; None where it is off."""
    kind = x.device.type
    # The meta device, on which shapes are counted without numbers, has no autocast and raises when asked.
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else None


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[None]:
    r"""For the length of a `with`, everything on the device of `x` is computed in its own precision."""
    if autocast_dtype(x) is None:
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)

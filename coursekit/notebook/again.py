r"""For cells that work when they are run a second time, whatever ran in between."""

from __future__ import annotations

from torch import nn

from coursekit.methods.mechanism.attachment import attached
from coursekit.methods.mechanism.merge import detach


def bare(model: nn.Module) -> nn.Module:
    r"""`model` without any adapter: those that other cells have attached are taken off, if there are any."""
    return detach(model) if attached(model) else model

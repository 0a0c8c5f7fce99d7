r"""Blocks whose adapters are skipped: how many in this forward pass, drawn at random or set from outside.

PassStart.begin, a hook before the first block, once a forward pass:

    held (by `skipping`)?      ── yes ──> skipped = held
    training, robust adapter?  ── yes ──> skipped = a draw from 0..sampled[name]
    otherwise                           > skipped = 0

Every `AdapterSite` and `AdapterNorm` of the model shares the one `Pass` and is silent in blocks below `skipped`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from coursekit.architecture import describe
from coursekit.errors import CourseError, whole
from coursekit.methods.adapters.places import blocks
from coursekit.methods.mechanism.attachment import Attachment, add_module, attached
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper, body_prefix


@dataclass
class Pass:
    r"""State of the forward pass under way, shared by all adapters of a model."""

    skipped: int = 0  # adapters in so many first blocks are skipped
    held: int | None = None  # the same, set from outside: nothing is drawn then
    sampled: dict[str, int] = field(default_factory=dict)  # adapter name -> most blocks that training skips


class PassStart(AdapterWrapper):
    r"""Decides, when a forward pass reaches the first block, how many blocks it skips."""

    def __init__(self, switch: AdapterState):
        super().__init__(None, switch)
        self.now = Pass()

    def begin(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        r"""Hook before the first block. It runs outside the checkpoint: recomputation sees the same number."""
        now = self.now
        if now.held is not None:
            now.skipped = now.held
        elif block.training and (most := now.sampled.get(self.switch.active)) is not None:
            now.skipped = int(torch.randint(most + 1, ()))  # from torch's CPU generator: no wait for a GPU
        else:
            now.skipped = 0

    def forget(self, name: str) -> None:
        self.now.sampled.pop(name, None)


def pass_start(model: nn.Module, state: Attachment) -> PassStart:
    r"""The module that notes the start of each forward pass of `model`."""
    path = f"{body_prefix(model)}adapter_pass"
    if path not in state.added:
        module = add_module(model, state, path, PassStart(state.switch))
        state.hooks.append(next(iter(blocks(model).values())).register_forward_pre_hook(module.begin))
    return model.get_submodule(path)


@contextlib.contextmanager
def skipping(model: nn.Module, n: int) -> Iterator[nn.Module]:
    r"""Skip the adapters of the first `n` blocks, for the length of a `with`: those blocks compute as in the base.

    For inference with any adapters, whatever they were trained for; a norm outside the blocks that trained with them
    (`train_norms`) stays. Raises CourseError for an n above the number of blocks, where there are no adapters, and
    where they are parts of a combination.
    """
    found = [module for module in model.modules() if isinstance(module, PassStart)]
    if not found:
        raise CourseError("this model has no bottleneck adapters to skip; attach some first")
    for method in attached(model).values():
        if hasattr(method, "parts_for"):
            raise CourseError(
                f"a {method._title} has more in a block than a bottleneck, and skipping would leave the rest at work: "
                "skip bottleneck adapters attached by themselves"
            )
    now = found[0].now
    before, now.held = now.held, whole("n", n, least=0, most=describe(model.config).n_layers)
    try:
        yield model
    finally:
        now.held = before

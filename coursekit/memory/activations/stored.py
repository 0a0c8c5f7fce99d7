r"""One block between its forward and its backward: as it is, or checkpointed.

plain           forward: keeps all that its steps keep        backward: lets go of it, step by step
checkpointed    forward: keeps its input                      backward: runs forward again, then as above, while
                                                              the gradient of its result waits
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from coursekit.architecture import Architecture
from coursekit.memory.activations.forward import forward_peak
from coursekit.memory.activations.step import Setting, Step, backward_peak, kept
from coursekit.memory.activations.training import Training
from coursekit.memory.breakdown import Term, summed


@dataclass(frozen=True)
class Stored:
    r"""What stays of a block after its forward, and the most that its forward and its backward need on top."""

    terms: tuple[Term, ...]
    forward: int
    backward: int  # what stays of it is gone by then, or among these bytes

    @property
    def bytes(self) -> int:
        r"""Bytes that stay."""
        return summed(self.terms)


def plain(arch: Architecture, s: Setting, training: Training, held: int, steps: Sequence[Step]) -> Stored:
    r"""A block that keeps all that its backward asks for. held: alive beside it in every block's forward."""
    terms = tuple(t for step in steps for t in step.keeps)
    forward = forward_peak(arch, s, training, steps) - kept(steps) + held
    return Stored(terms, forward, backward_peak(steps))


def checkpointed(
    arch: Architecture, s: Setting, training: Training, forward: int, inside: Sequence[Step], behind: Sequence[Step]
) -> Stored:
    r"""A block of which its input stays, and what a method does behind it. forward: bytes that its forward needs."""
    td = s.tokens * arch.d_model * s.element
    terms = (Term("inputs of the blocks", "T d", td), *(t for step in behind for t in step.keeps))
    # One of the tensors that the recomputed block keeps is its input, or the input is among the locals of the forward.
    names = {t.name for t in inside[1 if training.moved else 0].keeps}
    shared = "residual stream" in names or "input of q, k, v" in names
    # The recomputation stops when the last tensor is there that is kept; the backward begins before it, and waits.
    done = list(inside)
    while done[-1].forward is not None and not done[-1].keeps:
        done.pop()
    gradient = td
    if "sum before the norm, in fp32" in {t.name for t in done[-1].keeps}:
        gradient = s.full * s.tokens * arch.d_model  # an fp32 copy of a norm gets its gradient in fp32
    if early := done[-1].early:
        done[-1] = replace(done[-1], forward=early.forward, work=early.work)
        gradient += early.waits
    waiting = max([gradient, *(step.work for step in inside[len(done) :])])
    again = forward_peak(arch, s, training, done) + waiting
    # Recomputed weights that are moved stay until the next block is recomputed.
    backward = backward_peak([*done, *inside[len(done) :]], beside=True) + (0 if shared else td)
    return Stored(terms, forward, max(backward, again, gradient + backward_peak(behind)))

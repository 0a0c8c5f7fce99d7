r"""What the forward pass has for a moment beside what it keeps: the local variables of transformers' code.

They matter where little is kept: in frozen parts, in BERT, whose feed-forward lets go of nothing before its norm, and
when checkpointed blocks are recomputed. With x the input of the block and y that of its feed-forward, alive are

    place                 GPT-2, OPT, Llama                      BERT
    attention             x, norm(x)                             x
    attention output      x, norm(x)                             x, the attention's result
    feed-forward          x, y, norm(y)                          x, y
    feed-forward output   x, y, norm(y)                          x, y, hidden units, the feed-forward's result
    block output          x                                      x

OPT has no more norm(y) then, but a frozen one its hidden units at the feed-forward's output; GPT-2 still has the
attention's result in its feed-forward. DistilBERT is like BERT, but lets go of the hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence

from coursekit.architecture import Architecture
from coursekit.memory.activations.builder import Builder
from coursekit.memory.activations.step import Setting, Step, kept
from coursekit.memory.activations.training import Training
from coursekit.memory.breakdown import summed


def alive(b: Builder, place: str) -> int:
    r"""Bytes alive at `place` that no step so far keeps: inputs, and results that wait to be added.

    place: one of `training.PLACES`, or "feed-forward" for the middle of it.
    """
    a, td, tf = b.arch, b.live("T d"), b.live("T f")
    ffn = place.startswith("feed-forward")
    if a.pre_norm:
        streams = sum(t.name == "residual stream" for step in b.steps for t in step.keeps)
        unkept = td * (1 + ffn - streams)
        if place == "block output":
            return unkept
        if a.family == "opt" and place == "feed-forward output":  # fc2 has its input, all else is gone
            return unkept + (0 if b.flows else tf)
        reading = ("input of up", "input of gate, up") if ffn else ("input of q, k, v",)
        normed = td * (not any(map(b.keeps, reading)) and not (ffn and a.family == "opt"))
        return unkept + normed + td * (ffn and a.family == "gpt2")  # which has the attention's result, too
    unkept = td * (not b.keeps("input of q, k, v"))
    if place in ("block output", "attention"):
        return unkept
    if not ffn:
        return unkept + td
    unkept += td * (not b.keeps("input of up"))
    hidden = 0 if b.keeps("input of down") or a.family == "distilbert" else tf
    return unkept + (td + hidden if place == "feed-forward output" else 0)


def forward_peak(arch: Architecture, s: Setting, training: Training, steps: Sequence[Step]) -> int:
    r"""Most bytes alive while the forward goes through `steps`, kept ones included."""
    # The base's worst moment is its last product, or its last norm: what is inserted behind that comes later.
    names = [step.name for step in steps]
    worst = names.index("down") if arch.pre_norm else names.index(arch.norms[1])
    later = kept(step for step in steps[worst + 1 :] if step.forward is not None)
    most = kept(steps) - later + sum(step.holds for step in steps) + _locals(arch, s, training, steps)
    if steps[names.index("down")].forward is None:  # else it says so itself
        weight, scratch = max(s.unpacked.values(), default=(0, 0))
        most += weight + max(0, scratch - s.tokens * arch.d_model * s.element)  # the product comes after unpacking
    before = holding = 0
    for step in steps:
        before += summed(step.keeps)
        if step.forward is not None:
            most = max(most, before + holding + step.forward)
        holding += step.holds
    return most


def _locals(arch: Architecture, s: Setting, training: Training, steps: Sequence[Step]) -> int:
    r"""Bytes alive at the end of a block's forward pass that are not kept."""
    names = {t.name for step in steps for t in step.keeps}
    td, tf = s.tokens * arch.d_model * s.element, s.tokens * arch.d_ff * s.element
    hidden = 0 if "input of down" in names or arch.activation == "relu" else tf
    if arch.pre_norm:
        # A 16-bit base and an fp32 branch meet in fp32.
        down = [m.name for m in arch.matrices if m.per_layer][-1]
        meeting = 4 * s.tokens * arch.d_model if s.half and down in training.low_rank else 0
        # RMS norms keep fp32 copies, and a branch as well: the 16-bit tensors live beside them.
        copied = s.half and (arch.norm == "rms" or "residual stream, in fp32" in names)
        beside = 2 * td if copied and "input of gate, up" not in names else 0
        return 2 * td + hidden + meeting + beside
    unkept = ("input of up" not in names) + ("input of q, k, v" not in names)
    # An fp32 copy of a norm gives an fp32 result and keeps a copy of the sum, which is there as well.
    copied = s.tokens * arch.d_model * s.full if "sum before the norm, in fp32" in names else 0
    if arch.family == "distilbert":  # its feed-forward has let go of the hidden units by then
        return max((2 + unkept) * td + copied, (1 + unkept) * td + hidden)
    return (2 + unkept) * td + hidden + copied

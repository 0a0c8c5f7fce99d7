r"""What a block needs for a moment, beside what it keeps: the forward pass' own tensors, the backward pass of a norm.

The forward's are the local variables of transformers' code. They matter where little is kept: in frozen parts, in
BERT, whose feed-forward lets go of nothing before its norm, and when checkpointed blocks are recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coursekit.architecture import Architecture
from coursekit.memory.breakdown import summed

if TYPE_CHECKING:
    from coursekit.memory.activations import Builder, Setting, Step, Training

#: Tensors alive in the forward of an activation, its input and its result among them; 2 for one fused operation.
_MADE = {"gelu_new": 4}


def alive(b: Builder, place: str) -> int:
    r"""Bytes alive at `place` that no step so far keeps: inputs, and results that wait to be added.

    place: one of `activations.PLACES`, or "feed-forward" for the middle of it.
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
        normed = td * (not ffn or a.family != "opt")
        return unkept + normed + td * (ffn and a.family == "gpt2")  # which has the attention's answer, too
    unkept = td * (not b.keeps("input of q, k, v"))
    if place in ("block output", "attention"):
        return unkept
    if not ffn:
        return unkept + td
    unkept += td * (not b.keeps("input of up"))
    hidden = 0 if b.keeps("input of down") else tf
    return unkept + (td + hidden if place == "feed-forward output" else 0)


def attention(b: Builder) -> tuple[int, int]:
    r"""(most bytes alive in an attention that keeps nothing, those that stay until the block ends)."""
    a, s = b.arch, b.setting
    if s.attention == "flash":
        return alive(b, "attention") + b.live("3*T q", "2*T kv"), 0
    size = 4 if s.attention == "math" else s.element
    heads, q = b.term("", "S", size).bytes, b.term("", "T q", size).bytes
    mask = s.tokens * s.seq * s.element * s.padded
    if s.attention == "math":  # the scaled queries, and in 16 bits fp32 copies of all three
        extra = q + mask + (3 * q if s.element < 4 else 0)
    else:  # the weights are handed up, though nobody asks for them
        extra = b.live("2*T q") * (a.n_heads != a.n_kv_heads)
    # Scores and softmax, or softmax, dropout's mask and result; Llama and OPT have the softmax in fp32 in any case.
    upcast = s.element < 4 and a.family in ("llama", "opt")
    weights = 3 * heads if a.attention_dropout else 2 * heads
    if upcast and s.attention == "eager":
        weights = heads + 2 * b.term("", "S", 4).bytes
    most = alive(b, "attention") + b.live("T q", "2*T kv") + extra + weights
    return most, heads if s.attention == "eager" else 0


def rounded_attention(b: Builder) -> int | None:
    r"""PyTorch's unfused kernel on 16-bit tensors: fp32 copies of q, k and v, q scaled, the result; weights rounded."""
    s = b.setting
    if s.attention != "math" or s.element == 4:
        return None
    rounded = b.live("2*T q", "2*K kv", "S") + s.keys * s.seq * s.element * s.padded
    # Behind a prefix the copy of v is the tensor that is kept.
    copies = b.term("", "T q", 4).bytes * 3 + b.term("", "K kv", 4).bytes * (1 if s.prefix else 2)
    return alive(b, "attention") + rounded + copies


def feed_forward(b: Builder) -> int:
    r"""Most bytes alive in a feed-forward that keeps nothing."""
    made = 3 if b.arch.gated else _MADE.get(b.arch.activation, 2)
    return alive(b, "feed-forward") + b.live(f"{made}*T f")


def norm_work(arch: Architecture, s: Setting, training: Training, path: str) -> int:
    r"""Gradients alive in the backward of the norm at `path`. RMS norms are a chain of plain operations, in fp32."""
    td, trained = s.tokens * arch.d_model, training.any_of(path)
    if arch.norm == "rms" and s.element < 4:
        return 5 * td * 4 - td * s.element * trained  # by then what the gradient of the weight needed is gone
    if trained and training.norm_copies and s.element < 4:
        return td * s.element + 2 * td * 4
    return (3 if arch.norm == "rms" else 2) * td * s.element


def forward_peak(arch: Architecture, s: Setting, training: Training, steps: Sequence[Step]) -> int:
    r"""Most bytes alive while the forward goes through `steps`, kept ones included."""
    # The base's worst moment is its last product, or its last norm: what is inserted behind that comes later.
    names = [step.name for step in steps]
    worst = names.index("down") if arch.pre_norm else names.index(arch.norms[1])
    later = sum(summed(step.keeps) for step in steps[worst + 1 :] if step.forward is not None)
    kept, held = sum(summed(step.keeps) for step in steps), sum(step.holds for step in steps)
    most, before, holding = kept - later + held + forward_locals(arch, s, training, steps), 0, 0
    weight, scratch = max(s.unpacked.values(), default=(0, 0))
    most += weight + max(
        0, scratch - s.tokens * arch.d_model * s.element
    )  # the product comes after unpacking
    for step in steps:
        before += summed(step.keeps)
        if step.forward is not None:
            most = max(most, before + holding + step.forward)
        holding += step.holds
    return most


def forward_locals(arch: Architecture, s: Setting, training: Training, steps: Sequence[Step]) -> int:
    r"""Bytes alive at the end of a block's forward pass that are not kept: local variables of transformers' code."""
    names = {t.name for step in steps for t in step.keeps}
    td, tf = s.tokens * arch.d_model * s.element, s.tokens * arch.d_ff * s.element
    hidden = 0 if "input of down" in names or arch.activation == "relu" else tf
    if arch.pre_norm:
        # A 16-bit base and an fp32 branch meet in fp32.
        half = s.element < 4
        down = [m.name for m in arch.matrices if m.per_layer][-1]
        meeting = 4 * s.tokens * arch.d_model if half and down in training.low_rank else 0
        # RMS norms keep fp32 copies, and a branch as well: the 16-bit tensors live beside them.
        copied = half and (arch.norm == "rms" or "residual stream, in fp32" in names)
        beside = 2 * td if copied and "input of gate, up" not in names else 0
        return 2 * td + hidden + meeting + beside
    unkept = ("input of up" not in names) + ("input of q, k, v" not in names)
    # An fp32 copy of a norm answers in fp32 and keeps a copy of the sum, which is there as well.
    copied = s.tokens * arch.d_model * s.full if "sum before the norm, in fp32" in names else 0
    return (2 + unkept) * td + hidden + copied

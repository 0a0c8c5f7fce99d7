r"""What is alive at the moments of a training step that matter, block by block.

    moment               alive (each line has what the line above left)
    forward: embedding   what the embedding keeps
    forward: block i     + what block i keeps                        and, for a moment, its locals
    forward: head        + what the head keeps                       and the logits
    kept                 all that waits for the backward pass
    loss                                                             two more of the logits' size, in fp32
    backward: head       - log softmax, + the gradient of the logits
    backward: block i    - the head, - the blocks behind i           and block i's gradients, or its recomputation
    backward: embedding  only the gradient of the embedding's output

A tied table has two gradients, from the output layer at once and from the input at the very end: the first one waits
through the whole backward pass, and for a moment both stand beside their sum. Moved weights that nobody keeps are
there while the forward pass lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coursekit.architecture import Architecture
from coursekit.memory.activations.block import block_steps, norm_work
from coursekit.memory.activations.forward import forward_peak
from coursekit.memory.activations.step import Setting, Step
from coursekit.memory.activations.stored import Stored, checkpointed, plain
from coursekit.memory.activations.training import SAIDMemory, Training
from coursekit.memory.breakdown import Point, Term, summed
from coursekit.memory.ends import Head, embedding, head, mask, shared
from coursekit.memory.inserted.parts import Inserted, frozen

#: (steps inside a block, steps behind it) of each block.
Blocks = list[tuple[list[Step], list[Step]]]


def activations(
    arch: Architecture, s: Setting, method: Inserted, task: str, checkpointing: bool, arrivals: list[int]
) -> dict[str, Any]:
    r"""The fields of `Breakdown` that depend on time.

    arrivals: bytes of gradients of the head, of each block, of the embedding.
    """
    before, flows = embedding(arch, s, method, checkpointing)
    before += method.drawn
    blocks: Blocks = []
    for layer in range(arch.n_layers):
        inside, behind, flows = block_steps(arch, s, method.training, layer, flows)
        blocks.append((inside, behind))
    everywhere = [mask(arch, s), *shared(arch, s)]  # made once, for all blocks
    kept_of_it = [t for t in everywhere if checkpointing or _attention_keeps(t, s, blocks)]
    before += kept_of_it
    stored = _stored(arch, s, method, blocks, summed(everywhere) - summed(kept_of_it), checkpointing)
    after = head(arch, s, method.training, task)
    passing, last = _moved(arch, s, method.training.moved, checkpointing)

    forward = _forward(summed(before), stored, after, passing)
    kept = forward[-1].activations
    backward = _backward(kept - summed(after.terms), stored, arrivals, after.waits)
    end = summed(method.drawn) + 2 * after.waits + s.tokens * arch.d_model * s.element + last
    timeline = (
        *forward,
        Point("loss", kept + after.loss, 0),
        Point("backward: head", _backward_of_head(arch, s, method.training, after, kept), 0),
        *backward,
        Point("backward: embedding", end, sum(arrivals)),
    )
    return dict(
        activations=max(p.activations for p in timeline),
        kept=kept,
        terms=(*before, *_listed(stored, checkpointing), *after.terms),
        block=tuple(t for part in blocks[min(1, len(blocks) - 1)] for step in part for t in step.keeps),
        timeline=timeline,
    )


def _forward(before: int, stored: Sequence[Stored], after: Head, passing: int) -> list[Point]:
    r"""From the embedding to the moment when all is kept. passing: bytes of moved weights on the way."""
    now = before
    points = [Point("forward: embedding", now + passing, 0)]
    for i, block in enumerate(stored):
        now += block.bytes
        points.append(Point(f"forward: block {i}", now + block.forward + passing, 0))
    now += summed(after.terms)
    table = sum(t.bytes for t in after.terms if t.name == "moved output layer")  # one of those that are passing
    points.append(Point("forward: head", now + after.logits + passing - table, 0))
    return [*points, Point("kept", now, 0)]


def _backward_of_head(arch: Architecture, s: Setting, training: Training, after: Head, kept: int) -> int:
    r"""The loss has let go, the gradient of the logits and of a tied table are there; or the final norm works."""
    log_softmax = sum(t.bytes for t in after.terms if t.name == "log softmax")
    most = kept + s.element * log_softmax // 4 - log_softmax + after.waits
    for path in arch.outer_norms if arch.pre_norm else ():
        most = max(most, kept - after.beyond_norm + norm_work(arch, s, training, path) + after.waits)
    return most


def _backward(stack: int, stored: Sequence[Stored], arrivals: list[int], waits: int) -> list[Point]:
    r"""Block by block, from the last to the first. stack: bytes that stay before any of them has let go."""
    points, arrived = [], arrivals[0]
    for i, block in reversed(list(enumerate(stored))):
        stack -= block.bytes
        points.append(Point(f"backward: block {i}", stack + waits + block.backward, arrived))
        arrived += arrivals[1 + i]
    return points


def _stored(
    arch: Architecture, s: Setting, method: Inserted, blocks: Blocks, held: int, checkpointing: bool
) -> list[Stored]:
    r"""The blocks between forward and backward. held: bytes that are there for all of them, and nobody keeps."""
    if not checkpointing:
        held += _held(arch, s, method, blocks[0][0])
        return [plain(arch, s, method.training, held, [*inside, *behind]) for inside, behind in blocks]
    forward = 0
    if method.training.moved:  # held until the forward pass ends, so its last block can be the worst moment
        nothing = Training(frozen)
        forward = forward_peak(arch, s, nothing, block_steps(arch, s, nothing, 0, False)[0])
    return [checkpointed(arch, s, method.training, forward, inside, behind) for inside, behind in blocks]


def _moved(arch: Architecture, s: Setting, moved: SAIDMemory | None, checkpointing: bool) -> tuple[int, int]:
    r"""Bytes of moved weights that the forward pass holds and nothing keeps, and of the last group's end."""
    if moved is None:
        return 0, 0
    passing = s.element * moved.tables
    if checkpointing:
        passing += s.element * sum(moved.groups[: arch.n_layers])
    if len(moved.groups) == arch.n_layers:  # nothing but blocks
        return passing, 0
    tied = s.element * arch.vocab * arch.d_embed if arch.tied and not arch.encoder else 0  # the one that waits
    return passing, s.element * moved.groups[-1] - tied + moved.backward(arch.n_layers, s)


def _held(arch: Architecture, s: Setting, method: Inserted, first: Sequence[Step]) -> int:
    r"""Bytes that transformers and a prompt hold until the last block is done, kept by nobody."""
    td = s.tokens * arch.d_model * s.element
    if arch.family == "opt":
        return 2 * td  # input vectors and position vectors, kept apart from their sum
    if arch.family == "gpt2":
        return td + (td if s.prompt else td // s.batch)  # without a prompt one row of positions serves all
    # The embedding's output, where neither the first norm nor the first product keeps it.
    step, shared = (arch.norms[0], "residual stream") if arch.pre_norm else ("q, k, v", "input of q, k, v")
    held = td * (not any(t.name == shared for one in first if one.name == step for t in one.keeps))
    # BERT's embedding makes new vectors of the input vectors with virtual tokens among them.
    return held + td * (arch.encoder and bool(method.prompt or method.vectors))


def _attention_keeps(term: Term, s: Setting, blocks: Blocks) -> bool:
    r"""Whether an attention keeps the shared tensor `term`: rotations do, and of the masks fused kernels their own."""
    if term.name == "mask" or (term.name.startswith("mask") and s.attention != "flash"):
        return False
    return any(step.name in ("attention", "scores") for inside, _ in blocks for step in inside)


def _listed(stored: Sequence[Stored], checkpointing: bool) -> list[Term]:
    r"""The lines of a bill for what stays of the blocks."""
    if not checkpointing:
        return [Term(f"block {i}", "see `block`", block.bytes) for i, block in enumerate(stored)]
    inputs, behind = sum(b.terms[0].bytes for b in stored), sum(summed(b.terms[1:]) for b in stored)
    terms = [Term("inputs of the blocks", f"{len(stored)} T d", inputs)]
    return [*terms, Term("behind the blocks", "not recomputed", behind)] if behind else terms

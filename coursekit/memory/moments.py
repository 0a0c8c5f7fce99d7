r"""What is alive at the moments of a training step that matter: forward, loss, backward, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from coursekit.architecture import Architecture
from coursekit.memory.activations import (
    Moved,
    Setting,
    Step,
    Training,
    backward_peak,
    block_steps,
    kept,
)
from coursekit.memory.breakdown import Point, Term, summed
from coursekit.memory.ends import embedding, head, mask, shared
from coursekit.memory.inserted.parts import Inserted
from coursekit.memory.transient import forward_peak, norm_work

#: What the head keeps beyond the final norm.
_HEAD = ("log softmax", "input of the output layer", "moved output layer")


@dataclass(frozen=True)
class Stored:
    r"""One block: what stays of it after its forward, and the most that its forward and its backward need on top."""

    steps: Sequence[Step]
    terms: tuple[Term, ...]
    forward: int
    backward: int  # what stays of it is gone by then, or among these bytes

    @property
    def bytes(self) -> int:
        r"""What stays."""
        return summed(self.terms)


def activations(
    arch: Architecture, s: Setting, method: Inserted, task: str, checkpointing: bool, arrivals: list[int]
) -> dict[str, Any]:
    r"""The fields of `Breakdown` that depend on time.

    arrivals: bytes of gradients of the head, of each block, of the embedding.
    """
    td, training = s.tokens * arch.d_model * s.element, method.training
    before, flows = embedding(arch, s, method, checkpointing)
    drawn, passing, last = summed(method.drawn), 0, 0
    if training.moved:
        passing, last = _moved(arch, s, training.moved, checkpointing)
    before += method.drawn
    blocks: list[tuple[list[Step], list[Step]]] = []
    for layer in range(arch.n_layers):
        inside, behind, flows = block_steps(arch, s, training, layer, flows)
        blocks.append((inside, behind))
    unkept = [mask(arch, s), *shared(arch, s)]
    for term in unkept[:]:
        if checkpointing or _attention_keeps(term, s, blocks):
            unkept.remove(term)
            before.append(term)
    if checkpointing:
        stored = [_recomputed(arch, s, training, *block) for block in blocks]
        if (
            training.moved
        ):  # these are held until the forward pass ends, so its last block can be the worst moment
            frozen = Training(lambda path: False)
            once = forward_peak(arch, s, frozen, block_steps(arch, s, frozen, 0, False)[0])
            stored = [replace(block, forward=once) for block in stored]
    else:
        held = summed(unkept) + _held(arch, s, method, blocks[0][0])
        stored = [_stored(arch, s, training, held, [*inside, *behind]) for inside, behind in blocks]
    after, at_loss, at_logits, partial = head(arch, s, training, task)
    kept_loss = sum(t.bytes for t in after if t.name == "log softmax")
    # What the head kept beyond the final norm has gone when that norm's backward runs.
    table = sum(t.bytes for t in after if t.name == "moved output layer")  # one of those that are passing
    head_off = sum(t.bytes for t in after if t.name in _HEAD)

    now = summed(before)
    points = [Point("forward: embedding", now + passing, 0)]
    for i, block in enumerate(stored):
        now += block.bytes
        points.append(Point(f"forward: block {i}", now + block.forward + passing, 0))
    stack = now
    now += summed(after)
    at_norm = 0
    for path in arch.outer_norms if arch.pre_norm else ():
        at_norm = now - head_off + norm_work(arch, s, training, path) + partial
    points += [
        Point("forward: head", now + at_logits + passing - table, 0),
        Point("kept", now, 0),
        Point("loss", now + at_loss, 0),
        # The loss has let go, the gradient of the logits and of a tied table are there.
        Point("backward: head", max(now + s.element * kept_loss // 4 - kept_loss + partial, at_norm), 0),
    ]
    total, now, arrived = now, stack, arrivals[0]
    for i, block in reversed(list(enumerate(stored))):
        now -= block.bytes
        points.append(Point(f"backward: block {i}", now + partial + block.backward, arrived))
        arrived += arrivals[1 + i]
    # A tied table has two gradients, from the output layer at once and from the input at the very end. The first one
    # waits through the whole backward pass, and for a moment both stand beside their sum.
    points.append(Point("backward: embedding", drawn + 2 * partial + td + last, arrived + arrivals[-1]))
    return dict(
        activations=max(p.activations for p in points),
        kept=total,
        terms=(*before, *_listed(stored, checkpointing), *after),
        block=tuple(t for part in blocks[min(1, len(blocks) - 1)] for step in part for t in step.keeps),
        timeline=tuple(points),
    )


def _moved(arch: Architecture, s: Setting, moved: Moved, checkpointing: bool) -> tuple[int, int]:
    r"""Bytes of moved weights that the forward pass holds and nothing keeps, and of the last group's end."""
    passing = s.element * moved.tables
    if checkpointing:
        passing += s.element * sum(moved.groups[: arch.n_layers])
    if len(moved.groups) == arch.n_layers:  # nothing but blocks
        return passing, 0
    tied = s.element * arch.vocab * arch.d_embed if arch.tied and not arch.encoder else 0  # `partial` has it
    return passing, s.element * moved.groups[-1] - tied + moved.backward(arch.n_layers, s)


def _stored(arch: Architecture, s: Setting, training: Training, held: int, steps: Sequence[Step]) -> Stored:
    r"""A block that keeps all that its backward asks for. held: alive beside it in every block's forward."""
    terms = tuple(t for step in steps for t in step.keeps)
    forward = forward_peak(arch, s, training, steps) - kept(steps) + held
    return Stored(steps, terms, forward, backward_peak(steps))


def _recomputed(
    arch: Architecture, s: Setting, training: Training, inside: Sequence[Step], behind: Sequence[Step]
) -> Stored:
    r"""A checkpointed block: its input stays, and what a method does behind it."""
    td = s.tokens * arch.d_model * s.element
    terms = (Term("inputs of the blocks", "T d", td), *(t for step in behind for t in step.keeps))
    # One of the tensors that the recomputed block keeps is its input, or the input is among the locals of the forward.
    names = {t.name for t in inside[1 if training.moved else 0].keeps}
    shared = "residual stream" in names or "input of q, k, v" in names
    # Recomputed weights that are moved stay until the next block is recomputed.
    backward = backward_peak(inside, beside=True) + (0 if shared else td)
    # The recomputation stops when the last tensor is there that is kept; the backward begins before it, and waits.
    done = list(inside)
    while done[-1].forward is not None and not done[-1].keeps:
        done.pop()
    if "sum before the norm, in fp32" in {t.name for t in done[-1].keeps}:
        td = s.full * s.tokens * arch.d_model  # an fp32 copy of a norm gets its gradient in fp32
    waiting = max([td, *(step.work for step in inside[len(done) :])])
    again = forward_peak(arch, s, training, done) + waiting
    return Stored(inside, terms, 0, max(backward, again, td + backward_peak(behind)))


def _held(arch: Architecture, s: Setting, method: Inserted, first: Sequence[Step]) -> int:
    r"""Bytes that transformers and a prompt hold until the last block is done, kept by nobody."""
    td, names = s.tokens * arch.d_model * s.element, {t.name for step in first for t in step.keeps}
    if arch.family == "opt":
        return 2 * td  # input vectors and position vectors, kept apart from their sum
    if arch.family == "gpt2":
        return td + (td if s.prompt else td // s.batch)  # without a prompt one row of positions serves all
    shared = "residual stream" if arch.pre_norm else "input of q, k, v"
    held = 0 if shared in names else td  # the embedding's output
    # BERT's embedding makes new vectors of the input vectors with virtual tokens among them.
    return held + td * (arch.encoder and bool(method.prompt or method.vectors))


def _attention_keeps(term: Term, s: Setting, blocks: Sequence[tuple[list[Step], list[Step]]]) -> bool:
    r"""Whether an attention keeps the shared tensor `term`: rotations do, and of the masks fused kernels their own."""
    if term.name == "mask" or (term.name.startswith("mask") and s.attention != "flash"):
        return False
    return any(step.name in ("attention", "scores") for inside, _ in blocks for step in inside)


def _listed(stored: Sequence[Stored], checkpointing: bool) -> list[Term]:
    if not checkpointing:
        return [Term(f"block {i}", "see `block`", block.bytes) for i, block in enumerate(stored)]
    inputs, behind = sum(b.terms[0].bytes for b in stored), sum(summed(b.terms[1:]) for b in stored)
    terms = [Term("inputs of the blocks", f"{len(stored)} T d", inputs)]
    return [*terms, Term("behind the blocks", "not recomputed", behind)] if behind else terms

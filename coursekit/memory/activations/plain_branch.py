r"""Matrices with branches of VeRA or OFT, which are written in plain operations.

$$\text{VeRA: } h = Wx + b \odot B(d \odot Ax) \qquad \text{OFT: } h = W(R^\top x)$$

VeRA keeps $Ax$ and $B(d \odot Ax)$, which its vectors scale, and not x: A and B are frozen. OFT keeps x, and of R what
the formula that makes it keeps. Beside that, alive are

              VeRA                                      OFT
    forward   Wx, b ⊙ B(..), their sum                  R'x block by block, R'x put together; then R'x, W(R'x)
    backward  dh, b ⊙ dh, B(..) ⊙ dh                    dh, d(R'x); d(R'x), dx, dR; then dx, dR, up to three as large
    and then  dx of the branch, dx of W, their sum      dx, dx of another matrix, their sum

On a 16-bit base the branch computes in fp32, with copies of what it reads and gives.
"""

from __future__ import annotations

from collections.abc import Mapping

from coursekit.memory.activations.builder import Builder, Product
from coursekit.memory.activations.forward import alive
from coursekit.memory.activations.step import Early
from coursekit.memory.breakdown import Term, summed


def step(b: Builder, p: Product) -> None:
    r"""As `linear`, for matrices of which some have such a branch."""
    own = {n: _keeps(b, n, p.width) for n in p.names if n in b.training.low_rank}
    reads = bool(b.training.rotations) and not b.setting.half  # in 16 bits each has a copy
    shared = not p.here and (reads or any(b.training.weight(b.path(n)) for n in p.names))
    kept = [b.term(f"input of {p.what}", p.width)] * shared
    b.flows = True
    work = b.live(*p.beside) + _backward(b, p, own, summed(kept))
    # What reads the block's or the sublayer's input is known to `alive`, what reads a result on the way is not.
    between = p.what in ("output projection", "down") and not p.here
    ffn = b.matrix(p.names[-1]) in b.arch.feedforward
    waiting = alive(b, "feed-forward" if ffn else "attention") + b.live(p.width) * (between - shared)
    b.add(
        p.what, [*kept, *(term for terms in own.values() for term in terms)], work, waiting + _forward(b, p, own),
        early=_early(b, p, waiting, work) if b.training.rotations else None,
    )  # fmt: skip


def _keeps(b: Builder, name: str, width: str) -> list[Term]:
    r"""What the branch at the matrix `name` keeps, an input that others keep as well aside."""
    t, s, short = b.training, b.setting, name.rsplit(".", 1)[-1]
    if t.rotations:
        R, copied = t.rotations[name], [b.term(f"{short}: input in fp32", width, 4)] * s.half
        tensors = R.powers + (b.flows and not R.exact)
        return [*copied, b.small(f"{short}: R and its powers", f"{tensors} in b", tensors * R.size * s.full)]
    mask = b.term(f"{short}: dropout mask", width, 1 if s.on_gpu else s.full)
    return [
        *[mask] * bool(t.dropout and b.flows),
        b.small(f"{short}: A x", "T r", s.full * s.tokens * t.r),
        b.small(f"{short}: B d A x", "T out", s.full * s.tokens * b.matrix(name).d_out),
    ]


def _forward(b: Builder, p: Product, own: Mapping[str, list[Term]]) -> int:
    r"""Bytes alive in the forward beside the input and what the step keeps."""
    s, t, x, read = b.setting, b.training, b.live(p.width), b.live(p.width, size=b.setting.full)
    there, later, most = 0, sum(map(summed, own.values())), 0
    for n in p.names:
        out, (weight, scratch) = s.tokens * b.matrix(n).d_out, s.unpacked.get(n, (0, 0))
        turned = bool(t.rotations) and n in own
        if turned:
            later -= summed(own[n])
            most = max(most, there + 2 * read - later)
        most = max(most, there + x * turned + weight + max(scratch, s.element * out) - later)
        there += s.element * out
        if t.vera and n in own:
            if t.dropout:  # the dropped input and its mask, before anything else
                most = max(most, there + read * s.half + read + own[n][0].bytes - later)
            later -= summed(own[n])
            most = max(most, there + read * s.half + 2 * s.full * out - later)
    return most


def _backward(b: Builder, p: Product, own: Mapping[str, list[Term]], kept: int) -> int:
    r"""Bytes alive in the backward beside what waits there, from the last matrix to the first. kept: the input."""
    s, t, x, read = b.setting, b.training, b.live(p.width), b.live(p.width, size=b.setting.full)
    there, gone, before, most = b.live(*p.out), 0, 0, 0
    for n in reversed(p.names):
        d_out, (weight, scratch) = s.tokens * b.matrix(n).d_out, s.unpacked.get(n, (0, 0))
        if t.vera and n in own:
            most = max(most, there + before + (3 if s.half else 2) * s.full * d_out - gone)
            gone += summed(own[n])
            masked = read + own[n][0].bytes if t.dropout else 0
            most = max(most, there + before + read + max(masked, x * s.half) - gone)
            before = x
        most = max(most, there + before + weight + max(x, scratch) - gone)
        there = max(0, there - s.element * d_out)
        if t.rotations and n in own:
            R = t.rotations[n]
            most = max(most, there + before + 2 * read + s.full * R.whole - gone)
            gone += kept * (n == next(iter(own))) + summed(own[n][:-1])
            most = max(most, there + before + read + 4 * s.full * R.size - gone)
            gone += own[n][-1].bytes
        most = max(most, there + 3 * x * bool(before) - gone)
        before = x
    return most


def _early(b: Builder, p: Product, waiting: int, work: int) -> Early:
    r"""OFT keeps nothing behind R'x but a dense weight, as a product does; one in codes is unpacked anew instead."""
    read = b.live(p.width, size=b.setting.full)
    if p.names[-1] not in b.setting.unpacked:
        return Early(waiting + 2 * read, 0, work)
    return Early(waiting + read, b.live(p.width), b.live("T d") + 2 * read)

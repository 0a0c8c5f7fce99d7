r"""Matrices: $y = xW^\top$ keeps x only if W is trained, so a frozen one keeps nothing; LoRA keeps x and Ax.

Bytes alive in the backward of a matrix, from the gradient that comes to the one that goes:

    frozen         dy                    dx             (a weight in codes is unpacked first, beside dy)
    LoRA, in one   dy                    dx             the branch adds to dx in place
    LoRA, in two   dy     dx of branch   dx of layer    their sum; what the branch kept is gone
    written        dy     W with the values in it, or the gradient that the values' own is taken from     dx

Branches of VeRA and OFT: `plain_branch.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from coursekit.memory.activations import plain_branch
from coursekit.memory.activations.builder import Builder, Product
from coursekit.memory.breakdown import Term, summed


def linear(b: Builder, p: Product) -> None:
    r"""The matrices of `p`, and what a method inserts around them."""
    for n in p.names:
        b.insert(f"into {n}")
    if (b.training.vera or b.training.rotations) and any(n in b.training.low_rank for n in p.names):
        plain_branch.step(b, p)
    else:
        _step(b, p)
    for n in p.names:
        b.insert(f"out of {n}")


def _step(b: Builder, p: Product) -> None:
    r"""The step of matrices with low-rank branches, with parts that train, or as they are."""
    adapted = [n for n in p.names if n in b.training.low_rank]
    shared = any(b.training.weight(b.path(n)) for n in p.names) or (adapted and not _own_copy(b))
    keeps = [b.term(f"input of {p.what}", p.width)] if shared and not p.here else []
    for n in adapted:
        keeps += _branch(b, n, p.width)
    b.flows |= any(map(b.touches, p.names))
    gradients = [b.setting.element * b.matrix(n).d_in * b.matrix(n).d_out for n in p.names if b.training.moved]
    # A gradient takes the place of the moved weight when that has served; for a moment both are there.
    work = b.live(*p.beside) + _work(b, p, adapted, keeps) + max(gradients, default=0)
    b.add(p.what, keeps, work, leaves=sum(gradients))


def _own_copy(b: Builder) -> bool:
    r"""Whether each branch has a copy of the input: a dropped one, or one in fp32."""
    return bool(b.training.dropout) or b.setting.half


def _branch(b: Builder, name: str, width: str) -> list[Term]:
    r"""What the low-rank branch beside `name` keeps. DoRA is written in plain operations, and keeps their results."""
    t, s, short = b.training, b.setting, name.rsplit(".", 1)[-1]
    out, keeps = s.tokens * b.matrix(name).d_out, []
    if _own_copy(b):
        copied = "input in fp32" if s.half else "dropped input"
        keeps.append(b.term(f"{short}: {copied}", width, 4))
    if t.dropout and b.flows:
        keeps.append(b.term(f"{short}: dropout mask", width, s.noise))
    keeps.append(b.small(f"{short}: A x", "T r", 4 * s.tokens * t.r))
    if t.dora:
        keeps.append(b.small(f"{short}: W x, B A x", "2 T out", 8 * out))
    if t.gated:  # the gate reads what the branch reads
        keeps.append(b.small(f"{short}: B A x", "T out", s.full * out))
        keeps.append(b.small(f"{short}: gate", "2 T", 2 * s.full * s.tokens))
    return keeps


def _work(b: Builder, p: Product, adapted: Sequence[str], keeps: Sequence[Term]) -> int:
    r"""Bytes alive in the backward beside what waits there: the picture above."""
    s, dy, x = b.setting, b.live(*p.out), b.live(p.width)
    weight, scratch = max(s.unpacked.get(n, (0, 0)) for n in p.names)
    unpacked = weight + max(x, scratch)  # what unpacking takes has gone when the gradient of x comes
    unpacked = max([unpacked, *(_written(b, n, x) for n in p.names)])
    work = dy + (x if adapted else unpacked)
    if not adapted or b.training.dora:
        return work
    if s.half:  # the gradient is brought to fp32 for the branch, and that of x back
        x32 = b.live(p.width, size=4)
        work = dy + x32 + max(b.live(*p.out, size=4), x - x32)
    if _own_copy(b) or weight or any(b.matrix(n).kind != "linear" for n in adapted):
        released = summed(keeps) if len(p.names) == 1 else 0
        # Of several branches with copies of their own the last one's has gone when its layer unpacks.
        gone = summed(keeps) // len(adapted) if _own_copy(b) and weight else released
        work = max(work, 3 * x - released, dy + x + unpacked - gone)
    return work


def _written(b: Builder, name: str, x: int) -> int:
    r"""Bytes in the backward of a matrix that is put together anew, the gradient of its input among them."""
    s, own = b.setting, b.training.written.get(name)
    if own is None or not b.training.weight(b.path(name)) or (own.whole and not s.half):
        return 0
    # The matrix has gone when the gradient of the values is computed.
    return x + s.element * max(own.weight, own.dense + s.tokens * own.tokens)

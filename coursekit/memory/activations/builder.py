r"""Accumulates the steps and saved tensors of one block: sizes of tensors, and which of them are kept so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from coursekit.architecture import Architecture, Matrix
from coursekit.memory.activations.step import Early, Setting, Step
from coursekit.memory.activations.training import Training
from coursekit.memory.breakdown import Term


class Product(NamedTuple):
    r"""Matrices `names` that read one input, `width` wide, together called `what`.

    here: an earlier step keeps that very tensor. In the backward: `out`, the gradients of the results;
    `beside`, gradients that wait there for others.
    """

    names: Sequence[str]
    what: str
    width: str
    here: bool
    beside: Sequence[str]
    out: Sequence[str]


@dataclass
class Builder:
    r"""Block number `layer`, as far as it is written down."""

    arch: Architecture
    setting: Setting
    training: Training
    layer: int
    flows: bool  # whether what the next step reads needs a gradient
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        a, s = self.arch, self.setting
        self.sizes = {
            "T d": s.tokens * a.d_model, "T q": s.tokens * a.d_q, "T kv": s.tokens * a.d_kv, "T f": s.tokens * a.d_ff,
            "S": s.keys * s.seq * a.n_heads, "K q": s.keys * a.d_q, "K kv": s.keys * a.d_kv,
        }  # fmt: skip

    # Sizes --------------------------------------------------------------------------------------------------------

    def term(self, name: str, formula: str, size: int | None = None) -> Term:
        r"""A kept tensor of `formula` elements, `size` bytes each (default: the activations' precision)."""
        factor, _, symbol = formula.rpartition("*")
        elements = int(factor or 1) * self.sizes[symbol.strip()]
        return Term(name, formula, elements * (size or self.setting.element))

    def small(self, name: str, formula: str, nbytes: int) -> Term:
        r"""A kept tensor whose formula is no product of the symbols in `sizes`."""
        return Term(name, formula, nbytes)

    def live(self, *formulas: str, size: int | None = None) -> int:
        r"""Bytes of tensors of these formulas, all of them alive."""
        return sum(self.term("", f, size).bytes for f in formulas)

    def matrix(self, name: str) -> Matrix:
        r"""The shapes of the matrix `name`."""
        return next(m for m in self.arch.matrices if m.name == name)

    def path(self, name: str) -> str:
        r"""The path in the body of what is called `name` in the block."""
        return f"{self.arch.block_path(self.layer)}.{name}"

    # Steps --------------------------------------------------------------------------------------------------------

    def add(
        self, name: str, keeps: Iterable[Term], work: int, forward: int | None = None, holds: int = 0,
        leaves: int = 0, early: Early | None = None,
    ) -> None:  # fmt: skip
        r"""Write down a `Step`."""
        self.steps.append(Step(name, tuple(keeps), work, forward, holds, early, leaves))

    def step(self, name: str, keeps: Iterable[Term], *work: str) -> None:
        r"""Write down a step that needs the formulas `work` for its backward."""
        self.add(name, keeps, self.live(*work))

    def insert(self, place: str) -> None:
        r"""The steps of what the method inserts at `place` of this block."""
        for part in self.training.parts:
            if part.place == place and self.layer in part.blocks:
                part.write(self)

    # Questions ----------------------------------------------------------------------------------------------------

    def has(self, place: str) -> bool:
        r"""Whether the method inserts something at `place` of this block."""
        return any(p.place == place and self.layer in p.blocks for p in self.training.parts)

    def keeps(self, name: str) -> bool:
        r"""Whether a step so far keeps the tensor called `name`."""
        return any(term.name == name for step in self.steps for term in step.keeps)

    def touches(self, name: str) -> bool:
        r"""Whether the result of the matrix `name` depends on something trained beside or around it."""
        inserted = self.has(f"into {name}") or self.has(f"out of {name}")
        return inserted or self.training.touches(self.path(name), name)

    @property
    def residual_is_kept(self) -> bool:
        r"""Whether a step keeps the residual of the feed-forward, in the activations' precision."""
        norm = self.arch.norms[1]
        if self.arch.pre_norm:
            return any(t.name == "residual stream" for s in self.steps if s.name == norm for t in s.keeps)
        return self.keeps("input of up")

    @property
    def drops_late(self) -> bool:
        r"""Whether dropout comes after what is inserted at the sublayers' outputs: OPT's blocks drop out themselves."""
        return bool(self.arch.dropout) and self.arch.family == "opt"

    def own_gradient(self, place: str) -> list[str]:
        r"""The gradient of a sublayer's result, where it is not the very one that waits for the residual, too."""
        return ["T d"] if self.arch.dropout or self.has(place) else []

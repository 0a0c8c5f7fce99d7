r"""Bottleneck adapters: $A(x) = W_{up}\,\sigma(W_{down} x + b) + b$ at one or two places of each block.

A keeps what it reads, x, since $W_{down}$ trains, and what stands in the bottleneck, r numbers for each token. On a
16-bit base it computes in fp32, and x is a copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from coursekit.architecture import Architecture
from coursekit.memory.activations.builder import Builder
from coursekit.memory.activations.forward import alive
from coursekit.memory.activations.training import Part, Training
from coursekit.memory.breakdown import Term
from coursekit.memory.inserted.parts import Added, Inserted, each_block, frozen, norm_copies

#: By the names of a method's `sites`: the place whose output h is changed, and what A reads there: h itself, its
#: "sum" with the residual (normalised where the block normalises it), or the "residual" alone.
SITES = {
    "houlsby_attention": ("attention output", "h"),
    "houlsby_ffn": ("feed-forward output", "h"),
    "pfeiffer": ("feed-forward output", "sum"),
    "parallel": ("feed-forward output", "residual"),
    "lin": ("block output", "h"),
    "compacter_attention": ("attention output", "h"),
    "compacter_ffn": ("feed-forward output", "h"),
    "compacter_plus": ("feed-forward output", "sum"),
}

#: Tensors that an activation keeps, its result included, which the up projection needs.
_KEPT = {"gelu": 2, "swish": 2, "relu": 1, "tanh": 1, "identity": 1}


@dataclass(frozen=True)
class Bottleneck(Part):
    r"""One adapter in each of `blocks`."""

    place: str
    blocks: frozenset[int]
    reads: str
    r: int
    activation: str
    normed: bool = False  # a new LayerNorm before the down projection
    scaled: bool = False  # its output times a learned scale
    masked: bool = False  # weights are written into matrices of zeros in each forward pass
    products: int = 0  # so many Kronecker products make each matrix

    def write(self, b: Builder) -> None:
        s, a = b.setting, b.arch
        half = s.element < 4
        td, wide = b.live("T d"), s.full * s.tokens * a.d_model
        keeps = self._reading(b)
        if self.normed:
            keeps += [b.term(self._named("adapter: normalised", half), "T d", s.full)]
            keeps += [b.small("adapter: mean, 1 / std", "2 T", 2 * s.full * s.tokens)]
        inside = _KEPT[self.activation] * s.tokens * self.r * s.full
        keeps.append(b.small("adapter: bottleneck", f"{_KEPT[self.activation]} T r", inside))
        if self.products:  # both matrices: inputs and outputs of the shared factors
            between = 4 * s.tokens * self.products**2 * s.full
            keeps.append(b.small("adapter: around the shared factors", "4 T n^2", between))
        if self.masked:
            dense = (1 + b.flows) * a.d_model * self.r * s.full
            keeps.append(b.small("adapter: weights with zeros", "2 d r" if b.flows else "d r", dense))
        if self.scaled:
            keeps.append(b.term("adapter: output", "T d", s.full))
        # The gradient that comes and the one that goes; in 16 bits h has one of its own.
        work = td * (2 if half else 1) + wide * (2 if self.normed else 1) + td * b.drops_late
        # h where it is not what A keeps, and what A reads where it keeps a copy.
        waiting = alive(b, self.place) + td * ((self.reads != "h") + (half and self.reads != "residual"))
        if any(t.name in ("residual stream", "input of up") for t in keeps):
            waiting -= td  # now it is kept
        arriving = td + (wide + td if half else 0) + td * b.drops_late
        if self.scaled:  # the gradient times the scale, and the gradient times what is scaled
            work = max(work, arriving + 2 * wide)
        b.flows = True
        b.add("adapter", keeps, work, forward=waiting + wide * self.scaled)
        b.add("adapter: sum", [], arriving, forward=waiting + 2 * wide)

    def _reading(self, b: Builder) -> list[Term]:
        r"""What A reads, with the norm that the block itself applies to a sum."""
        s = b.setting
        half = s.element < 4
        what = {"h": "adapter: sublayer's output", "sum": "adapter: sum", "residual": "adapter: residual"}[self.reads]
        if self.reads == "residual" and not half:
            if b.residual_is_kept:
                return []
            what = "residual stream" if b.arch.pre_norm else "input of up"
        keeps = []
        if self.reads == "sum" and not b.arch.pre_norm:
            what = "adapter: normalised sum"
            path = b.path(b.arch.norms[1])
            if b.flows or b.training.any_of(path):
                own = b.training.norm_copies and b.training.any_of(path)
                keeps = [b.term("adapter: sum", "T d", s.full if own else s.element)]
                keeps.append(b.small("adapter: mean, 1 / std", "2 T", 8 * s.tokens))
        return [*keeps, b.term(self._named(what, half), "T d", s.full)]

    @staticmethod
    def _named(what: str, half: bool) -> str:
        return f"{what}, in fp32" if half else what


def adapter(method: Any, arch: Architecture, config: Any, first: int = 0) -> Inserted:
    r"""Bottlenecks of `method` in the blocks from `first` on, and with `train_norms` copies of their norms."""
    blocks = range(first, arch.n_layers)
    parts = tuple(_part(method, arch, site, blocks) for site in method.sites)
    added = [t for part in parts for t in each_block(_sizes(arch, part), blocks)]
    if shared := parts[0].products ** 3:  # its gradient is there when the last block has one
        added.insert(0, Added(shared, arch.n_layers - 1))
    if not method.train_norms:
        return Inserted(Training(frozen, parts=parts), tuple(added))
    norms, copies = norm_copies(arch, first)
    training = Training(lambda path: path.rpartition(".")[0] in norms, parts=parts, norm_copies=True)
    return Inserted(training, (*added, *copies))


def adapter_drop(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""The adapter without its first blocks; a robust one as in the steps that skip none, which take the most."""
    return adapter(method.adapter, arch, config, method.first(config))


def sparse_adapter(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""The adapter with the kept weights of each projection in a list.

    Which projection keeps how many is known only when the weights are scored: as if all kept the same share. The
    totals are exact, except for an 8-bit optimizer, whose blocks end with the single tensors.
    """
    whole = adapter(method.adapter, arch, config)
    weight = arch.d_model * method.adapter.r
    projections = sum(t.size == weight for t in whole.added)
    each, over = divmod(method.kept(config), projections)
    shares = iter([each + 1] * over + [each] * (projections - over))
    added = [Added(next(shares), t.place) if t.size == weight else t for t in whole.added]
    parts = tuple(replace(part, masked=True) for part in whole.training.parts)
    return replace(whole, added=tuple(added), training=replace(whole.training, parts=parts))


def _part(method: Any, arch: Architecture, site: str, blocks: Iterable[int]) -> Bottleneck:
    place, reads = SITES[site]
    r = method.width(arch.d_model) if hasattr(method, "width") else method.r
    return Bottleneck(
        place, frozenset(blocks), reads, r, method.activation,
        normed=site == "lin", scaled=getattr(method, "scaling", None) == "learned",
        products=getattr(method, "n", 0),
    )  # fmt: skip


def _sizes(arch: Architecture, part: Bottleneck) -> list[int]:
    d, r = arch.d_model, part.r
    if part.products:
        return [r, d, r, d, r, d]  # s, t and the bias of both
    return [r * d, r, d * r, d, *([d, d] if part.normed else []), *([1] if part.scaled else [])]

r"""Where the output of an adapter joins a block, by hooks, without rewriting the block's forward.

A block adds a sublayer's output h to what went into the sublayer, the residual x. An `AdapterSite` changes h just
before that addition:

    x ──┬──────────────────────────────────────────────┐
        │ keep: x is remembered, where A needs it       │
        └─> attention or feed-forward ──> h ──> change ─┴──(+)──> y
                                          h + A(reads(h, x))

`reads` is what placements differ in: h (Houlsby, Lin), LN(h + x) (Pfeiffer), x (parallel).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from coursekit.methods.adapters.passes import Pass
from coursekit.methods.adapters.places import Places
from coursekit.methods.mechanism.attachment import by_rows
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper


class AdapterSite(AdapterWrapper):
    r"""One place in one block, with the bottlenecks of all named adapters there."""

    #: Whether `reads` looks at the residual.
    needs_residual: ClassVar[bool] = False

    def __init__(self, block: nn.Module, number: int, where: Places, now: Pass, switch: AdapterState):
        super().__init__(None, switch)
        self.adapters = nn.ModuleDict()
        self.number, self.where, self.now = number, where, now
        self.block = (block,)  # in a tuple: as an attribute the block would be part of its own part
        self.res: Tensor | None = None

    @staticmethod
    def output(where: Places) -> str:
        r"""Path, in the block, of the module whose output h is changed: the feed-forward, unless a subclass says
        otherwise; "" is the block itself.
        """
        return where.ffn

    def reads(self, h: Float[Tensor, "*batch d"], x: Float[Tensor, "*batch d"] | None) -> Float[Tensor, "*batch d"]:
        r"""The input of A: h, unless a subclass says otherwise. x: the residual, where `needs_residual`."""
        return h

    def hooks(self) -> Iterator[Any]:
        r"""Register the hooks that make the place work."""
        block = self.block[0]
        if self.needs_residual:
            yield block.get_submodule(self.where.ffn_input).register_forward_pre_hook(self.keep)
        # Before all other hooks there: transformers records hidden states by hooks, and is to see the changed ones.
        yield block.get_submodule(self.output(self.where)).register_forward_hook(self.change, prepend=True)

    def keep(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        r"""Hook: keep the residual until h comes."""
        self.res = args[0] if self.is_active else None

    def change(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        r"""Hook: h + A(...) instead of h. An attention outputs a tuple, (h, attention weights)."""
        return (self(output[0]), *output[1:]) if isinstance(output, tuple) else self(output)

    @property
    def is_active(self) -> bool:
        r"""Whether an adapter here may have something to add in this forward pass."""
        if self.number < self.now.skipped:
            return False
        return self.switch.active in self.adapters if self.switch.rows is None else True

    def forward(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        if not self.is_active:
            return h
        z, self.res = self.reads(h, self.res), None
        return by_rows(self.switch, self.added, h, z)

    def added(
        self, name: str | None, h: Float[Tensor, "*batch d"], z: Float[Tensor, "*batch d"]
    ) -> Float[Tensor, "*batch d"]:
        r"""$h + A(z)$ with the A of adapter `name`, computed in the precision of A."""
        if name not in self.adapters:
            return h
        A = self.adapters[name]
        return (h + A(z.to(A.up.bias.dtype))).to(h.dtype)


def sites(model: nn.Module) -> dict[str, AdapterSite]:
    r"""All places with adapters, by path, in the order of the blocks."""
    return {path: module for path, module in model.named_modules() if isinstance(module, AdapterSite)}

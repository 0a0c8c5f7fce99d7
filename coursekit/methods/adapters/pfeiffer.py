r"""One adapter in each block, which reads the normalised sum (Pfeiffer et al. 2021, arXiv:2005.00247).

$$\mathrm{LN}(h + A(\mathrm{LN}(h + x)) + x), \quad h = \mathrm{FFN}(x)$$

The same LN twice. Where norms come first (GPT-2, OPT, Llama): $h + A(h + x) + x$. $A$ is `Bottleneck`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from coursekit import counts
from coursekit.methods.adapters.adapter import Adapter
from coursekit.methods.adapters.placement import AdapterSite


class AfterAddition(AdapterSite):
    r"""$h \leftarrow h + A(\mathrm{LN}(h + x))$ on the feed-forward's output, before its residual x is added."""

    needs_residual = True

    def reads(self, h: Float[Tensor, "*batch d"], x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        r"""$\mathrm{LN}(h + x)$, or $h + x$ where the block does not normalise the sum."""
        LN = self.where.ffn_norm
        return self.block[0].get_submodule(LN)(h + x) if LN else h + x


@dataclass(frozen=True)
class PfeifferAdapter(Adapter):
    r"""One bottleneck in each block, after the feed-forward: half of Houlsby's parameters.

    The definition is that of the `adapters` library (`seq_bn`): relu, r = d / 16, which is 48 in BERT base. Papers
    differ: some call an adapter after self-attention by this name.
    r, activation, init, train_norms: see `Adapter`.
    """

    r: int = 48
    kind: ClassVar[str] = "PFEIFFER"
    sites: ClassVar[dict[str, type[AdapterSite]]] = {"pfeiffer": AfterAddition}

    def count_bottlenecks(self, config: Any) -> int:
        r"""$L(2dr + r + d)$."""
        return counts.pfeiffer(config, self.r)

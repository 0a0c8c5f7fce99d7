r"""An adapter beside the feed-forward instead of after it (He et al. 2022, arXiv:2110.04366, section 4.6).

$$\mathrm{LN}(\mathrm{FFN}(x) + s \cdot A(x) + x)$$

Where norms come first (GPT-2, OPT, Llama): $\mathrm{FFN}(\mathrm{LN}(x)) + s \cdot A(x) + x$.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit import counts
from coursekit.errors import keep, number
from coursekit.methods.adapters.adapter import Adapter
from coursekit.methods.adapters.bottleneck import Bottleneck
from coursekit.methods.adapters.placement import AdapterSite
from coursekit.methods.mechanism.checkpoint import Setting


class ScaledBottleneck(Bottleneck):
    r"""$s \cdot A(x)$ with s fixed, or learned."""

    def __init__(self, scaling: float | str, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        one = torch.ones(1, device=self.up.weight.device, dtype=self.up.weight.dtype)
        self.scaling = nn.Parameter(one) if scaling == "learned" else scaling

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return super().forward(x) * self.scaling


class BesideFeedForward(AdapterSite):
    r"""$h \leftarrow h + s \cdot A(x)$ on the feed-forward's output; x is its residual."""

    needs_residual = True

    def reads(self, h: Float[Tensor, "*batch d"], x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        r"""x, what the block adds to h."""
        return x


@dataclass(frozen=True)
class ParallelAdapter(Adapter):
    r"""One bottleneck in each block, beside the feed-forward.

    scaling: s, a number, or "learned": one trained number for each bottleneck that starts at 1. The paper's is 4,
    with W_up = 0 at the start, and r = 512. The `adapters` library calls this `par_bn`.
    r, activation, init, train_norms: see `Adapter`.
    """

    init: str = "zero"
    scaling: float | str = 4.0
    entries = (*Adapter.entries, Setting("scaling"))
    kind: ClassVar[str] = "PARALLEL_ADAPTER"
    sites: ClassVar[dict[str, type[AdapterSite]]] = {"parallel": BesideFeedForward}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scaling != "learned":
            keep(self, scaling=number("scaling", self.scaling, above=0, such_as=4))

    def bottleneck(self, d: int, device: torch.device, dtype: torch.dtype) -> ScaledBottleneck:
        return ScaledBottleneck(self.scaling, d, self.r, self.activation, self.init, device, dtype)

    def count_bottlenecks(self, config: Any) -> int:
        r"""$L(2dr + r + d)$, and L more if the scale is learned."""
        return counts.parallel(config, self.r, learned_scale=self.scaling == "learned")

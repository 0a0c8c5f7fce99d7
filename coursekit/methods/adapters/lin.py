r"""An adapter after the whole block, with a norm of its own (Lin et al. 2020, arXiv:2004.03829).

$$x + W_{up}\,\sigma(W_{down}\,\mathrm{LN}_{new}(x) + b_{down}) + b_{up}, \quad x = \mathrm{Block}(\cdot)$$
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit import counts
from coursekit.methods.adapters.adapter import Adapter
from coursekit.methods.adapters.bottleneck import Bottleneck
from coursekit.methods.adapters.placement import AdapterSite
from coursekit.methods.adapters.places import Places


class NormedBottleneck(Bottleneck):
    r"""$A(\mathrm{LN}_{new}(x))$."""

    def __init__(self, d: int, *args: Any, **kwargs: Any):
        super().__init__(d, *args, **kwargs)
        self.norm = nn.LayerNorm(d, device=self.up.weight.device, dtype=self.up.weight.dtype)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return super().forward(self.norm(x))


class AfterBlock(AdapterSite):
    r"""$x \leftarrow x + A(\mathrm{LN}_{new}(x))$ on the block's output."""

    @staticmethod
    def output(where: Places) -> str:
        return ""  # the block itself


@dataclass(frozen=True)
class LinAdapter(Adapter):
    r"""One bottleneck with a new LayerNorm after each block: Adapter-L of the LoRA paper.

    The new norm has weight and bias in every family, Llama too.
    r, activation, init, train_norms: see `Adapter`.
    """

    kind: ClassVar[str] = "LIN_ADAPTER"
    sites: ClassVar[dict[str, type[AdapterSite]]] = {"lin": AfterBlock}

    def bottleneck(self, d: int, device: torch.device, dtype: torch.dtype) -> NormedBottleneck:
        return NormedBottleneck(d, self.r, self.activation, self.init, device, dtype)

    def count_bottlenecks(self, config: Any) -> int:
        r"""$L(2dr + r + d) + 2Ld$."""
        return counts.lin(config, self.r)

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
from coursekit.errors import CourseError
from coursekit.methods.adapters.bottleneck import Adapter, Bottleneck
from coursekit.methods.adapters.placement import Places, Site


class BesideFeedForward(Site):
    r"""$h \leftarrow sA(x) + h$ on what the feed-forward answers; x is its residual."""

    needs_residual = True

    @staticmethod
    def answers(where: Places) -> str:
        return where.ffn

    def reads(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        r"""x, what the block adds to h."""
        return self.res


class ScaledBottleneck(Bottleneck):
    r"""$s \cdot A(x)$ with s fixed, or learned."""

    def __init__(self, scaling: float | str, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        weight = self.up.weight
        learned = scaling == "learned"
        self.scaling = (
            nn.Parameter(torch.ones(1, device=weight.device, dtype=weight.dtype)) if learned else scaling
        )

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return super().forward(x) * self.scaling


@dataclass(frozen=True)
class ParallelAdapter(Adapter):
    r"""One bottleneck in each block, beside the feed-forward.

    scaling: s, a number, or "learned": one trained number for each bottleneck that starts at 1. The paper's is 4,
    with W_up = 0 at the start, and r = 512. The `adapters` library calls this `par_bn`.
    r, activation, init, train_norms: see `Adapter`.
    """

    init: str = "zero"
    scaling: float | str = 4.0
    kind: ClassVar[str] = "PARALLEL_ADAPTER"
    sites: ClassVar[dict[str, type[Site]]] = {"parallel": BesideFeedForward}

    def __post_init__(self) -> None:
        super().__post_init__()
        is_number = isinstance(self.scaling, (int, float)) and not isinstance(self.scaling, bool)
        if self.scaling != "learned" and not (is_number and self.scaling > 0):
            raise CourseError(
                f"scaling={self.scaling!r} is neither a number above 0, such as 4, nor 'learned'"
            )

    def bottleneck(self, d: int, device: torch.device, dtype: torch.dtype) -> ScaledBottleneck:
        return ScaledBottleneck(self.scaling, d, self.r, self.activation, self.init, device, dtype)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"scaling": self.scaling}

    def count_bottlenecks(self, config: Any) -> int:
        r"""$L(2dr + r + d)$, and L more if the scale is learned."""
        return counts.parallel(config, self.r, learned_scale=self.scaling == "learned")

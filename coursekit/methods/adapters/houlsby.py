r"""Adapters after both sublayers (Houlsby et al. 2019, arXiv:1902.00751).

$$\mathrm{LN}(h + A(h) + x), \quad h = \text{attention or feed-forward of } x$$

Where norms come first (GPT-2, OPT, Llama) the same without the norm: $h + A(h) + x$. $A$ is `Bottleneck`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from coursekit import counts
from coursekit.methods.adapters.adapter import Adapter
from coursekit.methods.adapters.placement import AdapterSite
from coursekit.methods.adapters.places import Places


class AfterAttention(AdapterSite):
    r"""$h \leftarrow h + A(h)$ on the attention's output, before its residual is added."""

    @staticmethod
    def output(where: Places) -> str:
        return where.attention


class AfterFeedForward(AdapterSite):
    r"""$h \leftarrow h + A(h)$ on the feed-forward's output, before its residual is added."""


@dataclass(frozen=True)
class HoulsbyAdapter(Adapter):
    r"""Two bottlenecks in each block. The paper's recipe is this with `train_norms=True` and a learning rate of 3e-4.

    r, activation, init, train_norms: see `Adapter`; r = 64, gelu and the small initialisation are the paper's. The
    `adapters` library calls this `double_seq_bn` and has swish, r = d / 16 and "bert".
    In OPT, whose block applies dropout to h itself, dropout comes after A, elsewhere before.
    """

    r: int = 64
    activation: str = "gelu"
    init: str = "houlsby"
    kind: ClassVar[str] = "HOULSBY"
    sites: ClassVar[dict[str, type[AdapterSite]]] = {
        "houlsby_attention": AfterAttention,
        "houlsby_ffn": AfterFeedForward,
    }

    def count_bottlenecks(self, config: Any) -> int:
        r"""$2L(2dr + r + d)$."""
        return counts.houlsby(config, self.r)

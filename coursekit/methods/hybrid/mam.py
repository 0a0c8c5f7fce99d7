r"""MAM, the Mix-And-Match adapter: a prefix in the attention, an adapter beside the feed-forward.

He et al. 2022 (arXiv:2110.04366), section 4.6.

$$\operatorname{head} = \operatorname{softmax}\Bigl(\frac{Q\,[P_k; K]^\top}{\sqrt{d_h}}\Bigr)\,[P_v; V], \qquad
h \leftarrow \mathrm{FFN}(x) + s \cdot W_{up}\,\mathrm{ReLU}(W_{down} x)$$
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from coursekit.architecture import describe
from coursekit.errors import keep
from coursekit.methods.adapters.parallel import ParallelAdapter
from coursekit.methods.hybrid.composite import Composite
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.soft_prompts.prefix import PrefixTuning


@dataclass(frozen=True)
class MAMAdapter(Composite):
    r"""Prefix tuning with a small `n`, and a `ParallelAdapter` of width `r` where most parameters go.

    n: virtual tokens, 30 in the paper. hidden: width of the network that makes the prefix while it trains, None to
    train keys and values themselves; 800 in the authors' code. r: width of the bottlenecks, None for half the model's
    width: that is the paper's 512 in its BART large (d = 1024), and 384 in BERT base, as in `adapters`. scaling: s.

    The text keeps its positions, as in the authors' code and in `adapters`. The adapters start at W_up = 0; the prefix
    takes its share of every softmax from the start, so the start is no identity.

    Raises CourseError for sizes that make no sense.
    """

    n: int = 30
    hidden: int | None = 800
    r: int | None = None
    scaling: float | str = 4.0
    kind: ClassVar[str] = "MAM"
    entries: ClassVar[tuple[Setting, ...]] = (
        Setting("n"),
        Setting("hidden", binding=False),  # the network behind a prefix is thrown away
        Setting("r"),
        Setting("scaling"),
    )

    def __post_init__(self) -> None:
        prefix, adapter = self._parts(1)  # each part has the errors for its settings
        keep(self, n=prefix.n, hidden=prefix.hidden, scaling=adapter.scaling)
        keep(self, r=None if self.r is None else adapter.r)

    def _parts(self, half: int) -> tuple[PrefixTuning, ParallelAdapter]:
        r = half if self.r is None else self.r
        return PrefixTuning(self.n, self.hidden, shifted=False), ParallelAdapter(r, scaling=self.scaling)

    def parts_for(self, config: Any) -> tuple[PrefixTuning, ParallelAdapter]:
        return self._parts(describe(config).d_model // 2)

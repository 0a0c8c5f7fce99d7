r"""UniPELT (Mao et al. 2022, arXiv:2110.07577): prefix, adapter and LoRA at once, and a gate that weighs each of them.

$$[g_P P_k; K],\;[g_P P_v; V], \qquad h \leftarrow g_A\,A(\mathrm{LN}(h + x)) + h, \qquad W_0 x + g_L\,BAx$$

A gate reads what its part's place reads. In each block there is one for the prefix, one for the adapter, and one for
each matrix that has LoRA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from coursekit.architecture import describe
from coursekit.errors import CourseError, flag, keep, whole
from coursekit.methods.hybrid.composite import Composite
from coursekit.methods.hybrid.gates import GatedLoRA, GatedPfeiffer, GatedPrefix, connect
from coursekit.methods.mechanism.attachment import Attachment
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.soft_prompts.attention import names_of


@dataclass(frozen=True)
class UniPELT(Composite):
    r"""A prefix, `PfeifferAdapter` and `LoRA` on query and value, all gated. For encoders.

    n: virtual tokens. hidden: width of the network that makes the prefix while it trains, None to train keys and
    values themselves. r: width of the bottlenecks, None for a 16th of the model's width. rank: of LoRA. padded: average
    the gates over padding as well.

    What the authors' code and `adapters` do, and what is different here. LoRA has no alpha: the gate takes its place,
    in both. Both average over padding, so that an answer depends on how long the other texts of the batch are: that is
    wrong, and here only with padded=True. The text keeps its positions, in both and here.

    With the gate averaged over the text each token would know of later ones, which a language model must not, and
    which its cache could not repeat: decoders are refused.

    The start is no identity, because the prefix is none; LoRA's B is 0, and the gates are half open.

    Raises CourseError for sizes that make no sense and, on attaching, for a decoder.
    """

    n: int = 10
    hidden: int | None = 512
    r: int | None = None
    rank: int = 8
    padded: bool = False
    kind: ClassVar[str] = "UNIPELT"
    entries: ClassVar[tuple[Setting, ...]] = (
        Setting("n"),
        Setting("hidden", binding=False),  # the network behind a prefix is thrown away
        Setting("r"),
        Setting("rank"),
        Setting("padded"),
    )

    def __post_init__(self) -> None:
        flag("padded", self.padded)
        keep(self, rank=whole("rank", self.rank, least=1, such_as=8))
        prefix, adapter, _ = self._parts(16)  # each part has the errors for its settings
        keep(self, n=prefix.n, hidden=prefix.hidden, r=None if self.r is None else adapter.r)

    def _parts(self, d: int, targets: tuple[str, ...] | None = None) -> tuple[GatedPrefix, GatedPfeiffer, GatedLoRA]:
        return (
            GatedPrefix(self.n, self.hidden, shifted=False, padded=self.padded),
            GatedPfeiffer(d // 16 if self.r is None else self.r, padded=self.padded),
            GatedLoRA(self.rank, targets=targets, padded=self.padded),
        )

    def parts_for(self, config: Any) -> tuple[GatedPrefix, GatedPfeiffer, GatedLoRA]:
        arch = describe(config)
        names = names_of(arch)
        return self._parts(arch.d_model, tuple(dict.fromkeys((names.query, names.value))))

    def _check(self, model: nn.Module) -> list[Any]:
        if not describe(model.config).encoder or getattr(model.config, "is_decoder", False):
            raise CourseError(
                "UniPELT averages its gates over the whole text, so that each token of a decoder would know of later "
                "ones: attach it to an encoder, or take MAMAdapter, which has no gates"
            )
        return super()._check(model)

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        trained = super()._insert(model, state, name, found)
        connect(model)
        return trained

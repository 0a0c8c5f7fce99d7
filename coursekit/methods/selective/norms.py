r"""Only the norms train (peft's LNTuning; Zhao et al. 2023, arXiv:2312.11420, for language models).

$$\mathrm{LN}(x) = \gamma \odot \frac{x - \mu}{\sigma} + \beta, \quad \gamma, \beta \in \mathbb{R}^d \text{ train}$$
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from coursekit import interop
from coursekit.errors import CourseError
from coursekit.methods.mechanism.anatomy import Anatomy, anatomy, anatomy_of
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.modules import body_prefix, named_base_modules
from coursekit.methods.mechanism.names import checked_names, matches, no_match
from coursekit.methods.selective.whole import WholeMethod

#: What peft calls a norm that trains.
SUFFIX = "ln_tuning_layers"


@dataclass(frozen=True)
class NormTuning(WholeMethod):
    r"""Every norm of the body trains, weight and bias (an RMSNorm has none): peft's LNTuning.

    targets: names as in peft, where not all norms are meant, such as ("post_attention_layernorm",).

    Raises CourseError for targets that are no names and, on attaching, for one that names no norm.
    """

    targets: tuple[str, ...] | str | None = None
    kind: ClassVar[str] = "LN_TUNING"

    entries = (
        # Whether the same norms were trained shows in the tensors, however they were named.
        Setting("targets", "target_modules", binding=False, read=lambda names: _named(names)),
    )

    def __post_init__(self) -> None:
        names = checked_names(self.targets, ("post_attention_layernorm",), words=())
        object.__setattr__(self, "targets", tuple(sorted(names)) if isinstance(self.targets, list) else names)

    def picks(self, path: str, shapes: Anatomy) -> bool:
        module = path.rpartition(".")[0]
        return module in shapes.norms and (
            self.targets is None or any(matches(module, target) for target in self.targets)
        )

    def count(self, config: Any) -> int:
        r"""$2d$ for each LayerNorm, d for each RMSNorm."""
        self._named_norms(anatomy_of(config))
        return super().count(config)

    def _check(self, model: nn.Module) -> None:
        self._named_norms(anatomy(model))
        super()._check(model)

    def _named_norms(self, shapes: Anatomy) -> None:
        r"""Raise CourseError for a target that names no norm of a model of these shapes."""
        for target in self.targets or ():
            if not any(matches(path, target) for path in shapes.norms):
                raise no_match(target, shapes.norms)

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        named = ((key.rpartition("."), value) for key, value in super()._tensors(model, name).items())
        return {f"{path}.{SUFFIX}.{key}": value for (path, _, key), value in named}

    def _config(self, model: nn.Module) -> dict[str, Any]:
        names = self.targets or self._names(model)
        return interop.common_config(model, self.kind) | {"target_modules": sorted(names)}

    def _names(self, model: nn.Module) -> set[str]:
        r"""The last parts of the norms' paths; all of a path where its end names something else as well."""
        norms, prefix = anatomy(model).norms, body_prefix(model)
        others = {path for path, _ in named_base_modules(model)} - {prefix + norm for norm in norms}
        ends = {norm: norm.rpartition(".")[2] for norm in norms}
        shared = {end for end in ends.values() if any(matches(path, end) for path in others)}
        return {norm if end in shared else end for norm, end in ends.items()}

    def _nothing(self, shapes: Anatomy) -> CourseError:
        return CourseError("the norms of this model have no weights that could train: take another method")


def _named(targets: Any) -> tuple[str, ...]:
    if not isinstance(targets, list):
        raise CourseError(
            f"this checkpoint names its norms by the pattern {targets!r}: load it with the method that you mean, such "
            "as NormTuning() for all of them"
        )
    return tuple(sorted(targets))

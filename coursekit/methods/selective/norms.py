r"""Only the norms train (peft's LNTuning; Zhao et al. 2023, arXiv:2312.11420, for language models)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.architecture import Architecture, describe
from coursekit.errors import CourseError
from coursekit.methods.selective.whole import WholeMethod

#: What peft calls a norm that trains.
SUFFIX = "ln_tuning_layers"


@dataclass(frozen=True)
class NormTuning(WholeMethod):
    r"""Every norm of the body trains, weight and bias (an RMSNorm has none): peft's LNTuning with all norms.

    Raises CourseError, on attaching, for a model whose norms have no weights.
    """

    kind: ClassVar[str] = "LN_TUNING"

    def picks(self, path: str, shapes: Architecture) -> bool:
        module = path.rpartition(".")[0]
        if module in shapes.outer_norms:
            return True
        number, _, inside = module.removeprefix(f"{shapes.block}.").partition(".")
        return module.startswith(f"{shapes.block}.") and number.isdigit() and inside in shapes.norms

    def count(self, config: Any) -> int:
        r"""$2d$ for each LayerNorm, d for each RMSNorm."""
        return counts.norms(config)

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        named = ((key.rpartition("."), value) for key, value in super()._tensors(model, name).items())
        return {f"{path}.{SUFFIX}.{key}": value for (path, _, key), value in named}

    def _config(self, model: nn.Module) -> dict[str, Any]:
        shapes = describe(model.config)
        names = {path.rpartition(".")[2] for path in (*shapes.norms, *shapes.outer_norms)}
        return interop.common_config(model, self.kind) | {"target_modules": sorted(names)}

    @classmethod
    def _from(cls, config: dict[str, Any]) -> Self:
        return cls()  # whether a checkpoint of peft's has all norms shows when it is loaded

    def _nothing(self, shapes: Architecture) -> CourseError:
        return CourseError("the norms of this model have no weights that could train: take another method")

r"""The last blocks train, those below are frozen: $FT^{Top2}$ of Li and Liang 2021 (arXiv:2101.00190) with k = 2.

$$x_{\ell+1} = \mathrm{Block}(x_\ell; \theta_\ell), \quad \theta_\ell \text{ trains for } \ell \ge L - k$$

The backward pass ends where the first trained block begins, and nothing below keeps its activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from coursekit.errors import CourseError, keep, whole
from coursekit.methods.mechanism.anatomy import Anatomy, anatomy, anatomy_of
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.selective.whole import WholeMethod


@dataclass(frozen=True)
class TopLayers(WholeMethod):
    r"""Every parameter of the last `k` blocks trains, and the task head. Norms and layers after the blocks stay frozen.

    Raises CourseError for a k that is no number of blocks and, on attaching, for more blocks than the model has.
    """

    k: int = 2
    kind: ClassVar[str] = "TOP_LAYERS"
    entries = (Setting("k"),)

    def __post_init__(self) -> None:
        keep(self, k=whole("k", self.k, least=1, such_as=2))

    def picks(self, path: str, shapes: Anatomy) -> bool:
        return any(path.startswith(f"{block}.") for block in shapes.blocks[-self.k :])

    def count(self, config: Any) -> int:
        r"""k times the size of a block."""
        self._fits(anatomy_of(config))
        return super().count(config)

    def _check(self, model: nn.Module) -> None:
        self._fits(anatomy(model))

    def _fits(self, shapes: Anatomy) -> None:
        if self.k > len(shapes.blocks):
            raise CourseError(
                f"k must be at most {len(shapes.blocks)}, the number of blocks of this model; got {self.k}."
            )

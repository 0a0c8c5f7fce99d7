r"""One type of layer trains in all blocks: attention, feed-forward or norms; or nothing but the task head.

$$y = \tilde W x + \tilde b, \quad \tilde W, \tilde b \text{ train where the layer is of the type, else } W_0, b_0$$
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from coursekit.errors import CourseError, unknown
from coursekit.methods.mechanism.anatomy import Anatomy
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.modules import head_names
from coursekit.methods.selective.norms import NormTuning
from coursekit.methods.selective.whole import WholeMethod

TYPES = ("attention", "feedforward", "norm")


@dataclass(frozen=True)
class ByType(WholeMethod):
    r"""The layers of the given types train, weights and biases.

    kinds: one or more of "attention", "feedforward" (in the blocks) and "norm" (everywhere).

    Raises CourseError for other kinds, or none.
    """

    kinds: tuple[str, ...] | str = ("attention",)
    kind: ClassVar[str] = "BY_TYPE"
    entries = (Setting("kinds", read=lambda kinds: ByType(kinds).kinds),)

    def __post_init__(self) -> None:
        if not isinstance(self.kinds, (str, Iterable)):
            raise CourseError(f"kinds={self.kinds!r}: name one or more of {', '.join(TYPES)}")
        kinds = (self.kinds,) if isinstance(self.kinds, str) else tuple(self.kinds)
        for one in kinds:
            if one not in TYPES:
                raise unknown("type of layer", str(one), TYPES)
        if not kinds:
            raise CourseError(f"kinds is empty: name at least one of {', '.join(TYPES)}")
        object.__setattr__(self, "kinds", kinds)

    def picks(self, path: str, shapes: Anatomy) -> bool:
        if NormTuning().picks(path, shapes):
            return "norm" in self.kinds
        module = path.rpartition(".")[0]
        return ("attention" in self.kinds and module in shapes.attention) or (
            "feedforward" in self.kinds and module in shapes.feedforward
        )


@dataclass(frozen=True)
class HeadOnly(WholeMethod):
    r"""Nothing but the task head trains, on what the frozen body outputs: the baseline of every method.

    Raises CourseError, on attaching, for a model without a task head.
    """

    kind: ClassVar[str] = "HEAD_ONLY"

    def picks(self, path: str, shapes: Anatomy) -> bool:
        return False

    def count(self, config: Any) -> int:
        r"""0: the task head is not counted."""
        return 0

    def _check(self, model: nn.Module) -> None:
        if not head_names(model):
            raise CourseError("this model has no task head that could train by itself: take another method")

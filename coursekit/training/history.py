r"""What a training run did, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from coursekit.errors import CourseError


@dataclass
class History:
    r"""One entry per step in every list.

    step: 1, 2, … loss: mean over the step's labelled tokens (or rows), before the update. lr: of that update.
    grad_norm: before clipping; empty where clipping is off. seconds: of the step alone. tokens_per_second: without
    padding, over all processes. peak_memory: bytes so far, as PyTorch allocated them on a GPU, or the resident set of
    the process on a CPU. noted: what the objective reported besides the loss, one list for each name.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens_per_second: list[float] = field(default_factory=list)
    peak_memory: list[int] = field(default_factory=list)
    noted: dict[str, list[float]] = field(default_factory=dict)

    def append(self, noted: Mapping[str, float] | None = None, **values: Any) -> None:
        r"""Add one step; a value of None is left out."""
        for name, value in values.items():
            if value is not None:
                getattr(self, name).append(value)
        for name, value in (noted or {}).items():
            self.noted.setdefault(name, []).append(value)

    def last(self) -> dict[str, Any]:
        r"""The last entry of every list that has one."""
        return {name: values[-1] for name, values in self.to_dict().items() if values}

    def to_dict(self) -> dict[str, list]:
        r"""The lists by name, what was noted among them, for JSON or `pandas.DataFrame`."""
        lists = asdict(self)
        return lists | lists.pop("noted")

    @classmethod
    def of(cls, lists: Mapping[str, list]) -> History:
        r"""The history that `to_dict` gave."""
        own = {name: values for name, values in lists.items() if name in _OWN}
        return cls(**own, noted={name: values for name, values in lists.items() if name not in own})

    def __len__(self) -> int:
        return len(self.step)

    def __repr__(self) -> str:
        if not self.step:
            return "History(no step)"
        return (
            f"History({len(self)} steps, loss {self.loss[0]:.3f} → {self.loss[-1]:.3f}, "
            f"{sum(self.seconds):.1f} s, peak memory {max(self.peak_memory) / 2**20:.0f} MiB)"
        )


#: The lists that every history has.
_OWN = frozenset(f.name for f in fields(History))


def check_noted(names: Iterable[str]) -> None:
    r"""CourseError for a name that an objective cannot give what it notes."""
    if own := _OWN.intersection(names):
        raise CourseError(f"an objective cannot note {min(own)!r}: every history has it; take another name")

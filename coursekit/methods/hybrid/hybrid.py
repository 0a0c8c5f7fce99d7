r"""Several methods under one name: `Hybrid(LoRA(r=8), BitFit())`, say, reparameterised and selective at once."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from torch import nn

from coursekit import interop
from coursekit.errors import CourseError
from coursekit.methods import base
from coursekit.methods.full import FullFineTuning
from coursekit.methods.hybrid.composite import Composite, twice


@dataclass(frozen=True, init=False, repr=False)
class Hybrid(Composite):
    r"""Methods that touch different places of one model, attached, saved and taken off as one.

    parts: in any order. They are attached in the order of their kinds' names, so that one seed gives one start however
    they were given. Which of them stands around which, where several stand at one module, is decided by what they do
    there (`Switched.order`) and not by who came first. peft has no such format: the folder of `save` holds the parts'
    configs in one list.

    Raises CourseError for fewer than two parts, for a part twice, for a part that takes the whole model (full
    fine-tuning), and, on attaching, before anything is changed, for parts that would change the same tensor or the
    same place, and for one that looks at data when it is attached.
    """

    parts: tuple[base.Method, ...]
    kind: ClassVar[str] = "HYBRID"

    def __init__(self, *parts: base.Method):
        flat = [p for part in parts for p in (part.parts if isinstance(part, Hybrid) else [part])]
        for part in flat:
            _check_part(part)
        if len(flat) < 2:
            raise CourseError("a hybrid needs two methods or more, such as Hybrid(LoRA(r=8), BitFit())")
        flat.sort(key=lambda part: part.kind)
        for one, other in pairwise(flat):
            if one.kind == other.kind:
                raise twice(one)
        object.__setattr__(self, "parts", tuple(flat))

    def __repr__(self) -> str:
        return f"Hybrid({', '.join(map(repr, self.parts))})"

    def parts_for(self, config: Any) -> tuple[base.Method, ...]:
        return self.parts

    def trains(self, path: str) -> bool:
        r"""Whether a part trains the parameter `path` of the model itself, or its own copy of it."""
        return any(part.trains(path) for part in self.parts if hasattr(part, "trains"))

    @property
    def _kinds(self) -> tuple[str, ...]:
        return (self.kind, *(part.kind for part in self.parts))

    @property
    def _title(self) -> str:
        return f"Hybrid of {' and '.join(part._title for part in self.parts)}"

    def _config(self, model: nn.Module) -> dict[str, Any]:
        return interop.common_config(model, self.kind) | {"parts": [p._config(model) for p in self.parts]}

    def _check_config(self, config: dict[str, Any]) -> None:
        found = [part["peft_type"] for part in config["parts"]]
        if found != [part.kind for part in self.parts]:
            raise CourseError(
                f"this checkpoint combines {' and '.join(found)}, the method here is a {self._title}; "
                "Hybrid.from_checkpoint(folder) makes the method that fits"
            )
        for part, its in zip(self.parts, config["parts"], strict=True):
            part._check_config(its)

    @classmethod
    def from_checkpoint(cls, folder: Any) -> Hybrid:
        r"""The method with the hyperparameters of the checkpoint in `folder`."""
        from coursekit.methods.registry import from_checkpoint

        config, tensors = interop.read(folder)
        interop.same_method(cls.kind, config)
        parts = []
        for its in config["parts"]:
            start = f"{its['peft_type']}."
            own = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
            # Each method knows how to read a checkpoint of its own, some from the tensors as well.
            with tempfile.TemporaryDirectory() as alone:
                interop.write(alone, its, own)
                parts.append(from_checkpoint(alone))
        return cls(*parts)


def _check_part(part: Any) -> None:
    if not isinstance(part, base.Method):
        hint = (
            f": write {part.__name__}()" if isinstance(part, type) and issubclass(part, base.Method) else ""
        )
        raise CourseError(f"{part!r} is no method that could be part of a hybrid{hint}")
    if isinstance(part, FullFineTuning):
        raise CourseError(
            "full fine-tuning trains every weight: there is nothing left that another method could add"
        )

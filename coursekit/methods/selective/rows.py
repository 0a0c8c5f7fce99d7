r"""Some rows, or some columns, of chosen weight matrices: everything else stays as it was pretrained.

A row of W, (out, in), is all that one output is made of, a column all that one input does:

$$y_i = \tilde W_{i,:}\,x + b_i \;\; (i \in R), \qquad y = Wx + b + \sum_{j \in C} (\tilde W_{:,j} - W_{:,j})\,x_j$$
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Self

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from coursekit import interop
from coursekit.architecture import Matrix, describe
from coursekit.errors import CourseError
from coursekit.methods.lora import LoRA
from coursekit.methods.mechanism.switch import bare
from coursekit.methods.selective.part_layer import PartMethod, Parts
from coursekit.methods.selective.parts import Columns, Entries, Part, Rows, transposed

#: Which lines of a matrix: their numbers, how many of the first ones, or the share of the first ones.
Which = tuple[int, ...] | int | float


def lines(which: Which, size: int) -> range | tuple[int, ...]:
    r"""The numbers of the lines that `which` names among `size`: themselves, the first so many, or that share."""
    if isinstance(which, tuple):
        return which
    return range(which if isinstance(which, int) else max(1, round(which * size)))


def which(value: Any, field: str) -> Which:
    r"""`value` as a setting that `lines` understands; CourseError where it makes no sense."""
    if isinstance(value, (list, set, range)):
        value = tuple(value)
    whole = [n for n in (value if isinstance(value, tuple) else (value,)) if isinstance(n, int)]
    good = not any(isinstance(n, bool) or n < 0 for n in whole)
    if isinstance(value, tuple):
        value = tuple(sorted(value)) if len(whole) == len(value) else value
        good = good and len(whole) == len(value) == len(set(whole)) > 0
    elif isinstance(value, int):
        good = good and value > 0
    else:
        good = isinstance(value, Real) and 0 < value <= 1
    if not good:
        raise CourseError(
            f"{field}={value!r}: give numbers from 0 up, each once, such as (0, 5), how many of the first ones, such "
            "as 8, or their share, such as 0.1"
        )
    return value


class SelectLines(PartMethod):
    r"""What `SelectRows` and `SelectColumns` have in common."""

    targets: tuple[str, ...] | str | None
    part: ClassVar[type[Rows]]
    #: The name of the setting that says which lines.
    setting: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", self._named_as_lora.targets)
        object.__setattr__(self, self.setting, which(getattr(self, self.setting), self.setting))

    @property
    def _named_as_lora(self) -> LoRA:
        return LoRA(r=1, targets=self.targets)

    def lines(self, size: int) -> range | tuple[int, ...]:
        r"""The numbers of the lines that train in a matrix that has `size` of them."""
        return lines(getattr(self, self.setting), size)

    def _matrices(self, config: Any) -> list[tuple[Matrix, int]]:
        r"""The chosen matrices, and how many lines of each train."""
        matrices = self._named_as_lora.matrices(config)
        _fit(self, {m.name: (m.d_out, m.d_in) for m in matrices if m.kind != "embedding"}, len(matrices))
        sizes = ((m.d_out, m.d_in)[self.part.side] for m in matrices)
        return [(m, len(self.lines(size))) for m, size in zip(matrices, sizes, strict=True)]

    def _modules(self, model: nn.Module) -> dict[str, nn.Module]:
        return {path: bare(module) for path, module in self._named_as_lora.places(model).items()}

    def _check(self, model: nn.Module) -> None:
        modules = self._modules(model)
        linear = {path: m for path, m in modules.items() if isinstance(m, (nn.Linear, Conv1D))}
        _fit(self, {path: _shape(module) for path, module in linear.items()}, len(modules))

    def _parts(self, model: nn.Module) -> Parts:
        return {path: self._of(module) for path, module in self._modules(model).items()}

    def _of(self, module: nn.Module) -> dict[str, Part]:
        index = torch.tensor(self.lines(_shape(module)[self.part.side]), device=module.weight.device)
        return {"weight": self.part(module.weight, index, transposed(module))}

    def touched(self, model: nn.Module) -> set[str]:
        return {f"{path}.weight" for path in self._modules(model)}

    def _config(self, model: nn.Module) -> dict[str, Any]:
        return interop.common_config(model, self.kind) | {
            "target_modules": list(self.targets) if isinstance(self.targets, tuple) else self.targets,
            self.setting: getattr(self, self.setting),
        }

    def _check_config(self, config: dict[str, Any]) -> None:
        for key, value in self._settings(config).items():
            found, own = (which(v, key) if key == self.setting else v for v in (value, getattr(self, key)))
            if key != "targets" and found != own:
                raise CourseError(
                    f"this checkpoint was trained with {key}={found!r}, the method here has {own!r}; "
                    f"{type(self).__name__}.from_checkpoint(folder) makes the method that fits"
                )

    @classmethod
    def from_checkpoint(cls, folder: Any) -> Self:
        r"""The method with the settings of the checkpoint in `folder`."""
        config, _ = interop.read(folder)
        interop.same_method(cls.kind, config)
        return cls(**cls._settings(config))

    @classmethod
    def _settings(cls, config: dict[str, Any]) -> dict[str, Any]:
        return {"targets": config["target_modules"], cls.setting: config[cls.setting]}


@dataclass(frozen=True)
class SelectRows(SelectLines):
    r"""Train some rows of the matrices that `targets` name: (k, in) for each, what k of its outputs are made of.

    targets: as for `LoRA`; None: query and value. rows: their numbers, such as (0, 5); a whole number: the first so
    many; a number up to 1: the first rows, so large a share of all. biases: the biases of these rows as well.

    Raises CourseError for rows that make no sense and, on attaching, for rows that a matrix does not have.
    """

    targets: tuple[str, ...] | str | None = None
    rows: Which = 0.1
    biases: bool = False
    kind: ClassVar[str] = "SELECT_ROWS"
    part: ClassVar[type[Rows]] = Rows
    setting: ClassVar[str] = "rows"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.biases, bool):
            raise CourseError(f"biases={self.biases!r}: take True or False")

    def count(self, config: Any) -> int:
        r"""$k\,d_{in}$ for each matrix, and k more with the biases."""
        copies = describe(config).copies
        return sum(
            copies(m) * k * (m.d_in + (1 if self.biases and m.bias else 0)) for m, k in self._matrices(config)
        )

    def _of(self, module: nn.Module) -> dict[str, Part]:
        parts = super()._of(module)
        if self.biases and module.bias is not None:
            parts["bias"] = Entries(module.bias, parts["weight"].index)
        return parts

    def touched(self, model: nn.Module) -> set[str]:
        biases = {f"{p}.bias" for p, m in self._modules(model).items() if self.biases and m.bias is not None}
        return super().touched(model) | biases

    def _config(self, model: nn.Module) -> dict[str, Any]:
        return super()._config(model) | {"biases": self.biases}

    @classmethod
    def _settings(cls, config: dict[str, Any]) -> dict[str, Any]:
        return super()._settings(config) | {"biases": config["biases"]}


@dataclass(frozen=True)
class SelectColumns(SelectLines):
    r"""Train some columns of the matrices that `targets` name: (out, k) for each, what k of its inputs do.

    targets: as for `LoRA`; None: query and value. columns: their numbers, such as (0, 5); a whole number: the first so
    many; a number up to 1: the first columns, so large a share of all.

    Raises CourseError for columns that make no sense and, on attaching, for columns that a matrix does not have.
    """

    targets: tuple[str, ...] | str | None = None
    columns: Which = 0.1
    kind: ClassVar[str] = "SELECT_COLUMNS"
    part: ClassVar[type[Rows]] = Columns
    setting: ClassVar[str] = "columns"

    def count(self, config: Any) -> int:
        r"""$k\,d_{out}$ for each matrix."""
        copies = describe(config).copies
        return sum(copies(m) * k * m.d_out for m, k in self._matrices(config))


def _shape(module: nn.Module) -> tuple[int, int]:
    r"""(out, in)."""
    shape = tuple(module.weight.shape)
    return shape[::-1] if transposed(module) else shape


def _fit(method: SelectLines, shapes: dict[str, tuple[int, int]], targets: int) -> None:
    r"""Raise CourseError where one of the targets is no matrix, or has not the lines that are to train."""
    if len(shapes) < targets:
        raise CourseError(
            f"{type(method).__name__} takes linear layers, and some of its targets are embeddings: leave them out"
        )
    for name, shape in shapes.items():
        last, size = method.lines(shape[method.part.side])[-1], shape[method.part.side]
        if last >= size:
            chosen = getattr(method, method.setting)
            take = f"up to {size}" if isinstance(chosen, int) else f"numbers from 0 to {size - 1}"
            raise CourseError(
                f"{method.setting}={chosen!r} is more than there is: {name} is {shape[0]} x {shape[1]}, so take {take}"
            )

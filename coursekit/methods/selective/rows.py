r"""Some rows, or some columns, of chosen weight matrices train; all else stays as it was pretrained.

A row of W, (out, in), is all that one output is made of, a column all that one input feeds:

$$y_i = \tilde W_{i,:}\,x + b_i \;\; (i \in R), \qquad y = Wx + b + \sum_{j \in C} (\tilde W_{:,j} - W_{:,j})\,x_j$$
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from coursekit.architecture import Matrix
from coursekit.errors import CourseError, flag
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.modules import EVERY, unwrap
from coursekit.methods.mechanism.names import QUERY_VALUE, checked_names
from coursekit.methods.mechanism.targets import Targets
from coursekit.methods.selective.part_layer import PartMethod, Parts
from coursekit.methods.selective.parts import Entries, Part, transposed

Which = tuple[int, ...] | int | float


def lines(which: Which, size: int) -> range | tuple[int, ...]:
    r"""The indices of the lines that `which` names among `size`: themselves, the first so many, or that share."""
    if isinstance(which, tuple):
        return which
    return range(which if isinstance(which, int) else max(1, round(which * size)))


def which(value: Any, field: str) -> Which:
    r"""`value` as a setting that `lines` understands; CourseError where it makes no sense."""
    if isinstance(value, (list, set, range)):
        value = tuple(value)
    whole: list[Any] = [n for n in (value if isinstance(value, tuple) else (value,)) if isinstance(n, Integral)]
    good = not any(isinstance(n, bool) or int(n) < 0 for n in whole)
    if isinstance(value, tuple):
        good = good and len(whole) == len(value) == len(set(whole)) > 0
        value = tuple(sorted(map(int, value))) if good else value
    elif isinstance(value, Integral):
        good = good and int(value) > 0
        value = int(value) if good else value
    else:
        good = isinstance(value, Real) and 0 < float(value) <= 1
        value = float(value) if good else value
    if not good:
        raise CourseError(
            f"{field} must be indices from 0 up, each once, such as (0, 5), how many of the first ones, such as 8, or "
            f"their share, such as 0.1; got {value!r}."
        )
    return value


class Rows(Part):
    r"""Whole rows of W, (k, in), at `index`: what k of its outputs are made of."""

    key = ".rows"
    side = 0  # of W

    @property
    def dim(self) -> int:
        r"""The dimension of the stored tensor that the index counts along."""
        return 1 - self.side if self.transposed else self.side

    def taken(self, tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*values"]:
        part = tensor.index_select(self.dim, self.index)
        return part.t() if self.transposed else part

    def written(self, tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        values = self.values.t() if self.transposed else self.values
        return tensor.index_copy(self.dim, self.index, values.to(tensor.dtype))  # W with the rows in place

    def gradient(self, g: Float[Tensor, "n out"], x: Float[Tensor, "n in"]) -> Float[Tensor, "k in"]:
        return g.index_select(1, self.index).t() @ x  # (k, n)(n, in) -> (k, in)


class Columns(Rows):
    r"""Whole columns of W, (out, k), at `index`: what k of its inputs feed."""

    key = ".columns"
    side = 1

    def gradient(self, g: Float[Tensor, "n out"], x: Float[Tensor, "n in"]) -> Float[Tensor, "out k"]:
        return g.t() @ x.index_select(1, self.index)  # (out, n)(n, k) -> (out, k)


class SelectLines(PartMethod):
    r"""Base class of `SelectRows` and `SelectColumns`."""

    targets: tuple[str, ...] | str | None
    part: ClassVar[type[Rows]]
    #: The name of the setting that says which lines.
    setting: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", checked_names(self.targets, ("q_proj", "v_proj")))
        object.__setattr__(self, self.setting, which(getattr(self, self.setting), self.setting))

    @property
    def _targets(self) -> Targets:
        return Targets(self.targets, QUERY_VALUE)

    def lines(self, size: int) -> range | tuple[int, ...]:
        r"""The indices of the lines that train in a matrix that has `size` of them."""
        return lines(getattr(self, self.setting), size)

    def _matrices(self, config: Any) -> list[tuple[Matrix, int]]:
        r"""The chosen matrices, each once for all blocks, and how many lines of each train."""
        return self._lines_of(self._targets.matrices(config))

    def _lines_of(self, matrices: list[Matrix]) -> list[tuple[Matrix, int]]:
        names = {m.name for m in matrices}
        _fit(self, {m.name: (m.d_out, m.d_in) for m in matrices if m.kind != "embedding"}, len(names))
        sizes = ((m.d_out, m.d_in)[self.part.side] for m in matrices)
        return [(m, len(self.lines(size))) for m, size in zip(matrices, sizes, strict=True)]

    def _layers(self, config: Any) -> list[tuple[Matrix, int]]:
        r"""The same in every block where it stands."""
        return self._lines_of(list(self._targets.layers(config).values()))

    def _modules(self, model: nn.Module) -> dict[str, nn.Module]:
        found = self._targets.modules(model, EVERY)
        return {path: unwrap(module) for path, module in found.items()}

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


def _lines_setting(name: str) -> Setting:
    return Setting(name, read=lambda value: which(value, name))


#: Which modules the targets named shows in the tensors, however they were named.
TARGETS = Setting("targets", "target_modules", binding=False)


@dataclass(frozen=True)
class SelectRows(SelectLines):
    r"""Train some rows of the matrices that `targets` name: (k, in) for each, what k of its outputs are made of.

    targets: as for `LoRA`; None: query and value. rows: their indices, such as (0, 5); an integer: the first so many;
    a float up to 1: the first rows, so large a share of all. biases: the biases of these rows as well.

    Raises CourseError for rows that make no sense and, on attaching, for rows that a matrix does not have.
    """

    targets: tuple[str, ...] | str | None = None
    rows: Which = 0.1
    biases: bool = False
    kind: ClassVar[str] = "SELECT_ROWS"
    part: ClassVar[type[Rows]] = Rows
    setting: ClassVar[str] = "rows"
    entries = (TARGETS, _lines_setting("rows"), Setting("biases"))

    def __post_init__(self) -> None:
        super().__post_init__()
        flag("biases", self.biases)

    def count(self, config: Any) -> int:
        r"""$k\,d_{in}$ for each matrix, and k more with the biases."""
        return sum(k * (m.d_in + (1 if self.biases and m.bias else 0)) for m, k in self._layers(config))

    def _of(self, module: nn.Module) -> dict[str, Part]:
        parts = super()._of(module)
        if self.biases and module.bias is not None:
            parts["bias"] = Entries(module.bias, parts["weight"].index)
        return parts

    def touched(self, model: nn.Module) -> set[str]:
        biases = {f"{p}.bias" for p, m in self._modules(model).items() if self.biases and m.bias is not None}
        return super().touched(model) | biases


@dataclass(frozen=True)
class SelectColumns(SelectLines):
    r"""Train some columns of the matrices that `targets` name: (out, k) for each, what k of its inputs feed.

    targets: as for `LoRA`; None: query and value. columns: their indices, such as (0, 5); an integer: the first so
    many; a float up to 1: the first columns, so large a share of all.

    Raises CourseError for columns that make no sense and, on attaching, for columns that a matrix does not have.
    """

    targets: tuple[str, ...] | str | None = None
    columns: Which = 0.1
    kind: ClassVar[str] = "SELECT_COLUMNS"
    part: ClassVar[type[Rows]] = Columns
    setting: ClassVar[str] = "columns"
    entries = (TARGETS, _lines_setting("columns"))

    def count(self, config: Any) -> int:
        r"""$k\,d_{out}$ for each matrix."""
        return sum(k * m.d_out for m, k in self._layers(config))


def _shape(module: nn.Module) -> tuple[int, int]:
    r"""(out, in)."""
    shape = tuple(module.weight.shape)
    return shape[::-1] if transposed(module) else shape


def _fit(method: SelectLines, shapes: dict[str, tuple[int, int]], targets: int) -> None:
    r"""Raise CourseError where one of the targets is no matrix, or lacks the lines that are to train."""
    if len(shapes) < targets:
        raise CourseError(
            f"{type(method).__name__} takes linear layers, and some of its targets are embeddings: leave them out"
        )
    for name, shape in shapes.items():
        last, size = method.lines(shape[method.part.side])[-1], shape[method.part.side]
        if last >= size:
            chosen = getattr(method, method.setting)
            take = f"up to {size}" if isinstance(chosen, int) else f"indices from 0 to {size - 1}"
            raise CourseError(
                f"{method.setting}={chosen!r} is more than there is: {name} is {shape[0]} x {shape[1]}, so take {take}"
            )

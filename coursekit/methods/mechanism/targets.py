r"""Which layers of a model a method takes: by peft's names, "all-linear", or what is the method's own in each family.

A target names a module by its whole path or by the last parts of it. One class answers for a model, whose modules it
finds, and for a description of one (`Architecture`), from which all is counted without building anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from coursekit.architecture import Architecture, Matrix, describe
from coursekit.errors import CourseError
from coursekit.methods.mechanism.anatomy import anatomy
from coursekit.methods.mechanism.modules import all_linear, find, matches, modules_of, no_default, no_match
from coursekit.methods.mechanism.patterns import is_pattern, pattern
from coursekit.methods.mechanism.skeleton import described, skeleton

ALL_LINEAR = "all-linear"
LINEAR = (nn.Linear, Conv1D)
EVERY = (*LINEAR, nn.Embedding)

#: What a method's `targets` may be.
Names = tuple[str, ...] | str | None


def checked_names(
    value: Any,
    such_as: tuple[str, ...],
    field: str = "targets",
    least: int = 1,
    words: tuple[str, ...] = (ALL_LINEAR,),
    patterns: bool = False,
) -> Names:
    r"""`value` as a tuple of names, as one of the `words`, or None. Raises CourseError for anything else.

    such_as: names for the error. least: how many names there must be. patterns: whether a string may also be a regular
    expression for whole paths, which comes back as a `Pattern`; one of letters, digits, _ and dots is a name.
    """
    if value is None or (isinstance(value, str) and value in words):
        return value
    if patterns and is_pattern(value):
        return pattern(value, field)
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (tuple, list, set)) or not all(isinstance(n, str) and n for n in names):
        raise CourseError(f"{field} must be names of modules, such as {such_as}; got {value!r}.")
    if len(names) < least:
        raise CourseError(f"{field} is empty: name at least one module, such as {such_as}, or leave it out.")
    names = tuple(sorted(names)) if isinstance(names, set) else tuple(names)
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise CourseError(f"{field} names {twice[0]!r} twice; once is enough.")
    return names


def names_in_config(found: Any) -> tuple[str, ...] | str:
    r"""The targets that a config names, ALL_LINEAR or a list. Raises CourseError for a pattern."""
    if found == ALL_LINEAR:
        return found
    if not isinstance(found, list):
        raise CourseError(f"this checkpoint names its targets by the pattern {found!r}; give them as a list")
    return tuple(sorted(found))


@dataclass(frozen=True)
class Targets:
    r"""names: as in peft, "all-linear", or None for `default`, by model type."""

    names: Names
    default: Mapping[str, tuple[str, ...]]

    def of(self, config: Any, model: nn.Module | None = None) -> tuple[str, ...]:
        r"""The names in the model that `config` describes; not for "all-linear", which has none.

        Raises CourseError, listing the candidates, where none are given and no default is known.
        """
        if isinstance(self.names, tuple):
            return self.names
        if config.model_type in self.default:
            return self.default[config.model_type]
        there = all_linear(skeleton(config) if model is None else model)
        raise no_default(config.model_type, there)

    def modules(self, model: nn.Module, kinds: tuple[type, ...] = LINEAR) -> dict[str, nn.Module]:
        r"""The bare modules of `model` of one of `kinds` that are meant, by path, in the model's order.

        "all-linear" is every linear map inside the blocks: not the embeddings, the output layer or the task head.
        Raises CourseError, listing the candidates, for a target that names nothing.
        """
        if self.names == ALL_LINEAR:
            return all_linear(model, LINEAR)
        return find(model, self.of(model.config, model), kinds)

    def layers(self, config: Any) -> dict[str, Matrix]:
        r"""The weight matrices that are meant in the model that `config` describes, each by its path in the model.

        From the description of the family; where there is none, from the model itself, built on the meta device.
        Raises CourseError as `modules` does.
        """
        arch = described(config)
        if arch is None:
            return {path: _matrix(path, m) for path, m in self.modules(skeleton(config), EVERY).items()}
        if self.names == ALL_LINEAR:
            return {path: m for path, m in linear_paths(arch).items() if m.per_layer}
        return matched(linear_paths(arch, ("linear", "conv1d", "embedding")), self.of(config))

    def matrices(self, config: Any) -> list[Matrix]:
        r"""The same, each matrix once for all blocks; of a described family alone.

        Raises CourseError where it is meant in some of the blocks only.
        """
        arch, often = describe(config), Counter(self.layers(config).values())
        for matrix, times in often.items():
            if times < arch.copies(matrix):
                raise CourseError(
                    f"targets name {matrix.name} in {times} of {arch.copies(matrix)} blocks, and only what all blocks "
                    "have can be predicted: name it without its block"
                )
        return list(often)

    def listed(self, config: Any) -> list[str]:
        r"""The names for a checkpoint, in which peft wants names."""
        if self.names != ALL_LINEAR:
            return list(self.of(config))
        if described(config):
            return sorted({m.name for m in self.matrices(config)})
        shapes = anatomy(skeleton(config))
        return sorted({shapes.name(path) for path in (*shapes.attention, *shapes.feedforward)})


def linear_paths(arch: Architecture, kinds: tuple[str, ...] = ("linear", "conv1d")) -> dict[str, Matrix]:
    r"""Every linear map of the body, or other matrix of `kinds`, by its path in a model with a head."""
    return {arch.in_model(path): m for m in arch.matrices if m.kind in kinds for path in arch.paths(m)}


def linear_layers(config: Any) -> dict[str, Matrix]:
    r"""The same for any config: from its description or, where there is none, from the model on the meta device."""
    arch = described(config)
    if arch is not None:
        return linear_paths(arch)
    return {path: _matrix(path, module) for path, module in modules_of(skeleton(config), LINEAR)}


def _matrix(path: str, module: nn.Module) -> Matrix:
    r"""The shape of a layer of a model that no description knows."""
    rows, columns = module.weight.shape
    if isinstance(module, nn.Embedding):
        return Matrix(path, rows, columns, False, False, "embedding")
    d_in, d_out, kind = (rows, columns, "conv1d") if isinstance(module, Conv1D) else (columns, rows, "linear")
    return Matrix(path, d_in, d_out, module.bias is not None, False, kind)


def matched(paths: Mapping[str, Matrix], targets: tuple[str, ...]) -> dict[str, Matrix]:
    r"""Those of `paths` that `targets` name. Raises CourseError, listing the candidates, where one names nothing."""
    for target in targets:
        if not any(matches(path, target) for path in paths):
            raise no_match(target, paths)
    return {path: m for path, m in paths.items() if any(matches(path, t) for t in targets)}

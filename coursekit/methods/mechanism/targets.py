r"""Which layers a method takes, by all the ways in which peft's config can say it.

    names ──> those in the numbered `blocks` ──> those that `exclude` does not name ──> those outside `whole`

A name is peft's, "all-linear", or the method's own default in each family. One class answers for a model, whose modules
it finds, and for a config, from which all is counted without building anything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from coursekit.architecture import Matrix, describe
from coursekit.errors import CourseError
from coursekit.methods.mechanism.anatomy import described, layers_of, linear_in_blocks, sizes_of, skeleton
from coursekit.methods.mechanism.modules import (
    LINEAR,
    all_linear,
    at,
    fan_in_fan_out,
    find,
    head_names,
    named_base_modules,
)
from coursekit.methods.mechanism.names import (
    ALL_LINEAR,
    Names,
    Pattern,
    inside,
    layer_number,
    matched,
    matches,
    no_default,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Targets:
    r"""names: as in peft, a pattern, "all-linear", or None for `default`, by model type.

    blocks: their numbers, None for all. exclude: names or a pattern. whole: names of modules that train whole, in which
    no target is looked for.
    """

    names: Names
    default: Mapping[str, tuple[str, ...]]
    blocks: tuple[int, ...] | None = None
    exclude: Names = None
    whole: tuple[str, ...] = ()

    def of(self, config: Any) -> tuple[str, ...]:
        r"""The names in the model that `config` describes; not for "all-linear", which has none.

        Raises CourseError, listing the candidates, where none are given and no default is known.
        """
        if isinstance(self.names, Pattern):
            return (self.names,)
        if isinstance(self.names, tuple):
            return self.names
        if config.model_type in self.default:
            return self.default[config.model_type]
        raise no_default(config.model_type, linear_in_blocks(config))

    def takes(self, path: str) -> bool:
        r"""Whether the module at `path`, one of those that `names` name, is taken. A whole path needs no number."""
        exclude = (self.exclude,) if isinstance(self.exclude, str) else self.exclude or ()
        numbered = self.blocks is None or layer_number(path) in self.blocks
        exactly = isinstance(self.names, tuple) and path in self.names
        return (
            (numbered or exactly) and not any(matches(path, name) for name in exclude) and not inside(path, self.whole)
        )

    def modules(self, model: nn.Module, kinds: tuple[type, ...] = LINEAR) -> dict[str, nn.Module]:
        r"""The targeted modules of `model` of one of `kinds`, by path, in the model's order.

        "all-linear" is every linear map inside the blocks: not the embeddings, the output layer or the task head.
        Raises CourseError, listing the candidates, for a target that names nothing.
        """
        if self.names == ALL_LINEAR:
            return self._taken(all_linear(model))
        return self._taken(find(model, self.of(model.config), kinds))

    def layers(self, config: Any) -> dict[str, Matrix]:
        r"""The targeted weight matrices in the model that `config` describes, each by its path in the model.

        Raises CourseError as `modules` does.
        """
        if self.names == ALL_LINEAR:
            return self._taken(linear_in_blocks(config))
        return self._taken(matched(layers_of(config), self.of(config)))

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

    def listed(self, config: Any) -> Any:
        r"""The names for a checkpoint, in which peft wants names, or the pattern."""
        if isinstance(self.names, Pattern):
            return str(self.names)
        if self.names != ALL_LINEAR:
            return list(self.of(config))
        return sorted({re.sub(r"^.*?\.\d+\.", "", path) for path in self.layers(config)})

    def entries(self, model: nn.Module, layers: Iterable[nn.Module]) -> dict[str, Any]:
        r"""What peft's config says of the targets in `model`, which are `layers`."""
        listed = self.listed(model.config)
        return {"target_modules": listed, "fan_in_fan_out": fan_in_fan_out(layers), "bias": "none"}

    # Modules that train whole ---------------------------------------------------------------------------------------

    def whole_modules(self, model: nn.Module) -> list[str]:
        r"""Paths of the modules of `model` that train whole, but for the task head, which does anyway.

        Raises CourseError for a name that names nothing.
        """
        paths, heads = [path for path, _ in named_base_modules(model) if path], head_names(model)
        paths = list(dict.fromkeys(paths))  # a wrapper has the path of its module
        for name in self.whole:
            if not any(matches(path, name) for path in paths):
                raise CourseError(f"modules_to_save names {name!r}, and this model has no module of that name")
        found = [p for p in paths if any(matches(p, name) for name in self.whole) and p.split(".")[0] not in heads]
        return [p for p in found if not any(p.startswith(f"{other}.") for other in found)]

    def count_whole(self, config: Any) -> int:
        r"""Parameters of the modules that train whole in the model that `config` describes, but for the task head."""
        if not self.whole:
            return 0
        if (arch := described(config)) is None:
            model = skeleton(config)
            modules = (at(model, path) for path in self.whole_modules(model))
            return sum(p.numel() for module in modules for p in module.parameters())
        sizes = {arch.in_model(name): size for name, size in sizes_of(arch).items()}
        sizes |= {f"{path}.weight": m.size for path, m in layers_of(arch).items() if path == "lm_head"}
        return sum(size for name, size in sizes.items() if inside(name, self.whole))

    def _taken(self, found: dict[str, T]) -> dict[str, T]:
        taken = {path: thing for path, thing in found.items() if self.takes(path)}
        if not taken:
            raise CourseError(
                f"layers and exclude leave none of the {len(found)} modules that the targets name, such as "
                f"{next(iter(found), None)}: name more layers, or exclude less"
            )
        return taken

r"""Which layers a LoRA takes, by all the ways in which peft's config can say it.

    targets ──> those in the numbered `blocks` ──> those that `exclude` does not name ──> those outside `whole`

As `Targets`, for a model and for a description of one; patterns are matched against the paths in a model with a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from coursekit import counts
from coursekit.architecture import Architecture, Matrix
from coursekit.errors import CourseError
from coursekit.methods.mechanism.modules import at, head_names, matches, standing
from coursekit.methods.mechanism.patterns import Pattern, inside, layer_number
from coursekit.methods.mechanism.skeleton import described, skeleton
from coursekit.methods.mechanism.targets import ALL_LINEAR, LINEAR, Names, Targets, linear_paths, matched

T = TypeVar("T")


@dataclass(frozen=True)
class Choice(Targets):
    r"""names: as for `Targets`, or a pattern. blocks: their numbers, None for all. exclude: names or a pattern.

    whole: names of modules that train whole, in which no target is looked for.
    """

    blocks: tuple[int, ...] | None = None
    exclude: Names = None
    whole: tuple[str, ...] = ()

    def of(self, config: Any, *model: nn.Module) -> tuple[str, ...]:
        return (self.names,) if isinstance(self.names, Pattern) else super().of(config, *model)

    def takes(self, path: str) -> bool:
        r"""Whether the module at `path`, one of those that `names` name, is taken. A whole path needs no number."""
        exclude = (self.exclude,) if isinstance(self.exclude, str) else self.exclude or ()
        numbered = self.blocks is None or layer_number(path) in self.blocks
        exactly = isinstance(self.names, tuple) and path in self.names
        return (
            (numbered or exactly)
            and not any(matches(path, name) for name in exclude)
            and not inside(path, self.whole)
        )

    def modules(self, model: nn.Module, kinds: tuple[type, ...] = LINEAR) -> dict[str, nn.Module]:
        return self._taken(super().modules(model, kinds))

    def layers(self, config: Any) -> dict[str, Matrix]:
        arch = described(config)
        if arch is None or self.names == ALL_LINEAR:
            return self._taken(super().layers(config))
        every = linear_paths(arch, ("linear", "conv1d", "embedding")) | _output_layer(arch)
        return self._taken(matched(every, self.of(config)))

    def listed(self, config: Any, model: nn.Module | None = None) -> Any:
        r"""The names for a checkpoint, or the pattern."""
        if isinstance(self.names, Pattern):
            return str(self.names)
        if self.names == ALL_LINEAR and described(config) is not None:
            return sorted({m.name for m in self.layers(config).values()})
        return super().listed(config, model)

    def whole_modules(self, model: nn.Module) -> list[str]:
        r"""Paths of the modules of `model` that train whole, but for the task head, which does anyway.

        Raises CourseError for a name that names nothing.
        """
        paths, heads = {path: module for path, module in standing(model) if path}, head_names(model)
        for name in self.whole:
            if not any(matches(path, name) for path in paths):
                raise CourseError(
                    f"modules_to_save names {name!r}, and this model has no module of that name"
                )
        found = [
            p for p in paths if any(matches(p, name) for name in self.whole) and p.split(".")[0] not in heads
        ]
        return [p for p in found if not any(p.startswith(f"{other}.") for other in found)]

    def count_whole(self, config: Any) -> int:
        r"""Parameters of the modules that train whole in the model that `config` describes, but for the task head."""
        if not self.whole:
            return 0
        if (arch := described(config)) is None:
            model = skeleton(config)
            modules = (at(model, path) for path in self.whole_modules(model))
            return sum(p.numel() for module in modules for p in module.parameters())
        sizes = {arch.in_model(t.name): t.size for t in counts.body(arch)}
        sizes |= {f"{path}.weight": m.size for path, m in _output_layer(arch).items()}
        return sum(size for name, size in sizes.items() if inside(name, self.whole))

    def _taken(self, found: dict[str, T]) -> dict[str, T]:
        taken = {path: thing for path, thing in found.items() if self.takes(path)}
        if not taken:
            raise CourseError(
                f"layers and exclude leave none of the {len(found)} modules that the targets name, such as "
                f"{next(iter(found))}: name more layers, or exclude less"
            )
        return taken


def _output_layer(arch: Architecture) -> dict[str, Matrix]:
    r"""The output layer over the vocabulary, which stands outside the body; an encoder has none."""
    head = Matrix("lm_head", arch.d_embed, arch.vocab, False, per_layer=False)
    return {} if arch.encoder else {"lm_head": head}

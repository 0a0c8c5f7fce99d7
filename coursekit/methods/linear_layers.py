r"""Methods that put one branch beside every linear layer that `targets` name, in folders that peft reads and writes.

A folder's config says in several ways which layers it means, and its tensors say which they were. Where the list of
names does not say exactly that, each layer is named by its path. A setting of peft's that the method here does not have
is refused by its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from coursekit import interop
from coursekit.architecture import Matrix
from coursekit.errors import CourseError
from coursekit.methods.ia3_config import explains
from coursekit.methods.mechanism.branch import BranchMethod
from coursekit.methods.mechanism.checkpoint import ASIDE, not_here
from coursekit.methods.mechanism.modules import HEADS
from coursekit.methods.mechanism.names import QUERY_VALUE, Names
from coursekit.methods.mechanism.targets import Targets

#: Entries that say nothing about what an adapter does once it is trained, or that its tensors say better.
IN_THE_TENSORS = {"init_weights", "target_modules", "layers_to_transform", "exclude_modules", "modules_to_save"}


class LinearLayersMethod(BranchMethod):
    r"""A branch beside the linear layers that `targets` name; None: query and value, as for LoRA."""

    targets: Names
    #: What the tensors of a layer are called in a checkpoint, behind its path.
    parts: ClassVar[tuple[str, ...]]
    #: Entries of peft's config that change nothing in what a trained adapter computes.
    aside: ClassVar[frozenset[str]] = frozenset()

    @property
    def named(self) -> Targets:
        r"""The layers that get a branch."""
        return Targets(self.targets, QUERY_VALUE)

    def layers(self, config: Any) -> dict[str, Matrix]:
        r"""The same in the model that `config` describes, by path."""
        return {path: m for path, m in self.named.layers(config).items() if m.kind != "embedding"}

    def places(self, model: nn.Module) -> dict[str, nn.Module]:
        return self.named.modules(model)

    def _config(self, model: nn.Module) -> dict[str, Any]:
        return super()._config(model) | self.named.entries(model, self.places(model).values())

    def _check_config(self, config: dict[str, Any]) -> None:
        self._refuse(config, ())
        super()._check_config(config)

    @classmethod
    def restored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
        interop.same_method(cls.kind, config)
        cls._refuse(config, tensors)
        paths = {key.removesuffix(part) for key in tensors for part in cls.parts if key.endswith(part)}
        if not paths:
            raise CourseError(f"this checkpoint holds no tensor of {cls.__name__}: save the adapter again")
        names = config["target_modules"]
        if config.get("layers_to_transform") is not None or config.get("exclude_modules"):
            names = None
        return super().restored(
            config | {"target_modules": sorted(set(names) if explains(names, paths) else paths)}, tensors
        )

    @classmethod
    def _refuse(cls, config: dict[str, Any], tensors: Iterable[str]) -> None:
        r"""Raise CourseError for a setting in `config` that the method here does not have."""
        known = {setting.key or setting.field for setting in cls.entries} | ASIDE | IN_THE_TENSORS | cls.aside
        for key in sorted(config.keys() - known):
            if config[key] and config[key] != "none":
                raise not_here(cls.__name__, key, config[key])
        others = {key.rpartition(".")[0] for key in tensors if not key.endswith(cls.parts)}
        whole = (path for path in others if path.split(".")[0] not in HEADS)
        if config.get("modules_to_save") and any("." in path or path == "lm_head" for path in whole):
            raise not_here(cls.__name__, "modules_to_save", config["modules_to_save"])

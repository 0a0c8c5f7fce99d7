r"""Base class of methods made of other methods: one adapter name, one head, each part at its own place."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from coursekit import interop
from coursekit.errors import CourseError
from coursekit.methods.mechanism.attachment import Attachment, attachment_of
from coursekit.methods.mechanism.method import Method


class Composite(Method, ABC):
    r"""Several methods under one adapter name.

    Each part keeps its parameters where it would alone. So switching, rows of one batch and taking off need nothing
    more, and each part starts as it would alone: the whole is an identity at the start if all parts are.
    """

    @abstractmethod
    def parts_for(self, config: Any) -> tuple[Method, ...]:
        r"""The parts in the model that `config` describes, in the order in which they are attached."""

    def count(self, config: Any) -> int:
        r"""The sum of the parts' counts."""
        return sum(part.count(config) for part in self.parts_for(config))

    def _check(self, model: nn.Module) -> list[Any]:
        found = [part._check(model) for part in self.parts_for(model.config)]
        for one, other in combinations(self._leaves(model.config), 2):
            if one.kind == other.kind:
                raise twice(one, other)
            if both := one.touched(model) & other.touched(model):
                raise CourseError(
                    f"{one._title} and {other._title} cannot be combined: both change {min(both)}; let them change "
                    "different places, or leave one out"
                )
        return found

    def touched(self, model: nn.Module) -> set[str]:
        return set().union(*(part.touched(model) for part in self.parts_for(model.config)))

    def heads(self, model: nn.Module) -> list[str]:
        parts = (part.heads(model) for part in self.parts_for(model.config))
        return list(dict.fromkeys(head for heads in parts for head in heads))

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        parts = zip(self.parts_for(model.config), found, strict=True)
        return [p for part, its in parts for p in part._insert(model, state, name, its)]

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return {
            self._key(part, key): value
            for part in self.parts_for(model.config)
            for key, value in part._tensors(model, name).items()
        }

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: str | Path) -> None:
        r"""Each part loads its share of the checkpoint, and the head with it.

            tensors --_share--> part 1, part 2, ... --> a twin that shares all that is frozen --> `model`

        A part that objects does so at the twin, before anything has changed.
        """
        own, parts = self._tensors(model, name), self.parts_for(model.config)
        head = {k: tensors[k] for k in self._learned(model, name).keys() - own.keys() if k in tensors}
        shares = [self._share(part, tensors) for part in parts]
        known = {self._key(part, key) for part, share in zip(parts, shares, strict=True) for key in share}
        strange = {key: tensors[key] for key in tensors.keys() - head.keys() - known}
        if strange:
            interop.same_tensors(own, own | strange, folder)
        for one in (twin(model, name), model):
            for part, share in zip(parts, shares, strict=True):
                its = {key: head[key] for key in part._learned(one, name).keys() & head.keys()}
                part._load(one, name, share | its, folder)

    def _key(self, part: Method, key: str) -> str:
        r"""Name of the tensor `key` of `part` in a checkpoint of the whole."""
        return f"{part.kind}.{key}"

    def _share(self, part: Method, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        r"""The tensors of `part` in a checkpoint of the whole, under the part's own keys."""
        start = self._key(part, "")
        return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}

    def _merged_weights(self, model: nn.Module, name: str) -> dict[str, dict[str, Tensor]]:
        whole: dict[str, dict[str, Tensor]] = {}
        for part in self.parts_for(model.config):
            for path, tensors in part._merged_weights(model, name).items():
                whole[path] = whole.get(path, {}) | tensors
        return whole

    def _leaves(self, config: Any) -> list[Method]:
        r"""The parts, and the parts of those that have some."""
        parts = self.parts_for(config)
        return [leaf for part in parts for leaf in (part._leaves(config) if isinstance(part, Composite) else [part])]


def twice(one: Method, other: Method) -> CourseError:
    r"""The error for two parts of one kind."""
    what = f"{one._title} is there twice" if one._title == other._title else f"{one._title} beside {other._title}"
    return CourseError(f"{what}: an adapter has one set of such parameters, so let one part name all of their places")


def twin(model: nn.Module, name: str) -> nn.Module:
    r"""A copy of `model` with parameters of its own for adapter `name`; all other tensors are the model's."""
    trained = {id(p) for p in attachment_of(model).parameters[name]}
    shared = [t for t in (*model.parameters(), *model.buffers()) if id(t) not in trained]
    return copy.deepcopy(model, {id(t): t for t in shared})

r"""Base class of methods that train single entries, anywhere in the model: a mask, chosen once.

$$\tilde\theta = \theta + M \odot \delta, \quad M \in \{0, 1\}$$

One tensor with its entries in place is `parts.Entries`.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coursekit import interop
from coursekit.errors import CourseError
from coursekit.methods import positions
from coursekit.methods.mechanism.attachment import activate, attachment_of, unmerged
from coursekit.methods.mechanism.modules import EVERY, AdapterWrapper, at, in_codes, named_base_modules, unwrap
from coursekit.methods.mechanism.targets import Targets
from coursekit.methods.selective.part_layer import PartMethod, Parts
from coursekit.methods.selective.parts import Entries, transposed

#: A tensor of the model: path of its module, and "weight" or "bias".
Place = tuple[str, str]


class MaskMethod(PartMethod):
    r"""A subclass says among which tensors it chooses (`_places`), how many entries there are, and how many train."""

    #: What trains of one tensor.
    part: ClassVar[type[Entries]] = Entries

    @abstractmethod
    def among(self, config: Any) -> int:
        r"""How many parameters there are to choose from."""

    @abstractmethod
    def _places(self, model: nn.Module) -> dict[Place, nn.Parameter]:
        r"""The tensors to choose from."""

    def masks(self, model: nn.Module, name: str | None = None) -> dict[str, Tensor]:
        r"""Masks of adapter `name`, true where an entry trains, for each parameter with such entries."""
        unmerged(model)
        name, places, found = self._named(model, name), self._places(model), {}
        for path, parts in self._parts_of(model, name).items():
            for key, part in parts.items():
                tensor = places[path, key]
                flat = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
                flat[part.index] = True
                found[f"{path}.{key}"] = flat.view(tensor.shape)
        return found

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        tensors, places = super()._tensors(model, name), self._places(model)
        for path, parts in self._parts_of(model, name).items():
            for key, part in parts.items():
                form, stored = positions.encode(part.index, places[path, key].numel())
                tensors[f"{path}.{key}.{form}"] = stored
        return tensors | {"among": torch.tensor([self.among(model.config)])}

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: str | Path) -> None:
        r"""The mask is the file's.

        adapter     file        afterwards
        mask A      mask A      A's parameters, with the file's values: an optimizer may go on with them
        mask A      mask B      B's parts in the place of A's: an optimizer has to be made anew
        no parts    mask B      B's parts
        """
        rest, stored = dict(tensors), {}
        among = rest.pop("among", torch.zeros(1))
        for place, tensor in self._places(model).items():
            if found := positions.take(rest, ".".join(place), tensor.numel(), folder):
                stored[place] = found
        own = self._tensors(model, name)
        head = {key: value for key, value in self._learned(model, name).items() if key not in own}
        interop.same_tensors(head, rest, folder)
        total = sum(len(index) for index, _ in stored.values())
        if (among.tolist(), total) != ([self.among(model.config)], self.count(model.config)):
            raise self._other(model, folder)
        parts = self._with_mask(model, name, {place: index for place, (index, _) in stored.items()})
        with torch.no_grad():
            for (path, key), (index, values) in stored.items():
                if len(index):
                    parts[path][key].values.copy_(values)
            for key, value in head.items():
                value.copy_(rest[key])

    def _with_mask(self, model: nn.Module, name: str, mask: dict[Place, Tensor]) -> Parts:
        r"""The parts of adapter `name` at `mask`: those that it has, or new ones in their place."""
        state, old = attachment_of(model), self._parts_of(model, name)
        has = {(path, key): part.index.tolist() for path, own in old.items() for key, part in own.items()}
        if has == {place: index.tolist() for place, index in mask.items() if len(index)}:
            return old
        new = self._entries_at(model, mask)
        gone = {id(value) for value in self._take(model, name)}
        kept = [p for p in state.parameters[name] if id(p) not in gone]
        state.parameters[name] = kept + self._put(model, state, name, new)
        activate(model, state.switch.active)
        return new

    def _other(self, model: nn.Module, folder: str | Path) -> CourseError:
        return CourseError(
            f"the checkpoint in {folder} is of another model: its mask does not choose {self.count(model.config):,} of "
            f"the {self.among(model.config):,} parameters here"
        )

    def _entries_at(self, model: nn.Module, index: dict[Place, Tensor]) -> Parts:
        r"""Parts of single entries at `index`, for the tensors that have some."""
        parts: Parts = {}
        modules = {path: module for path, module in named_base_modules(model) if not isinstance(module, AdapterWrapper)}
        for (path, key), own in index.items():
            if len(own):
                module = modules[path]
                parts.setdefault(path, {})[key] = self.part(getattr(module, key), own, transposed(module))
        return parts

    def _check(self, model: nn.Module) -> None:
        if any(in_codes(module) for module in model.modules()):
            raise CourseError(
                "a mask chooses among dense weights, and some of this model's are in 4 bits: load it without quantizing"
            )
        for path, _ in self._places(model):
            if isinstance(unwrap(at(model, path)), nn.Embedding):
                raise CourseError(f"{path} is an embedding, and a mask chooses in linear layers: leave it out")

    def touched(self, model: nn.Module) -> set[str]:
        return {f"{path}.{key}" for path, key in self._places(model)}


def weights_of(model: nn.Module, targets: Targets) -> dict[Place, nn.Parameter]:
    r"""The weights of the matrices that `targets` name; an embedding among them is refused when a method attaches."""
    modules = targets.modules(model, EVERY)
    return {(path, "weight"): unwrap(module).weight for path, module in modules.items()}

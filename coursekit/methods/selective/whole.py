r"""Whole tensors of the model that train: each adapter has a copy of them, which takes the place of the frozen one.

$$\tilde W = \theta, \quad \theta \text{ trained, at the start } W$$
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.methods.mechanism.anatomy import Anatomy, anatomy, anatomy_of, sizes_of
from coursekit.methods.mechanism.modules import AdapterWrapper, body_prefix, head_names, in_codes, named_base_modules
from coursekit.methods.selective.part_layer import PartMethod, Parts
from coursekit.methods.selective.parts import Part, transposed


def with_norm_weights(config: Any) -> None:
    r"""Raise CourseError for OPT without weights in its norms, whose tensors nothing here counts."""
    if not getattr(config, "layer_norm_elementwise_affine", True):
        raise CourseError(
            "the norms of this model have no weights, which methods that pick among a model's tensors do not know: "
            "take another model, or a method that puts something beside them, such as LoRA"
        )


class Whole(Part):
    r"""All of one tensor, in its shape. A bias that the layer does not have starts as `zeros`."""

    key = ""

    def __init__(self, tensor: Tensor, transposed: bool = False):
        super().__init__(tensor, torch.empty(0, dtype=torch.long), transposed)

    def taken(self, tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return tensor

    def written(self, tensor: Float[Tensor, "*shape"] | None) -> Float[Tensor, "*shape"]:
        return self.values if tensor is None else self.values.to(tensor.dtype)

    def gradient(self, g: Float[Tensor, "n out"], x: Float[Tensor, "n in"]) -> Float[Tensor, "*shape"]:
        return x.t() @ g if self.transposed else g.t() @ x  # as the tensor is stored


class WholeMethod(PartMethod):
    r"""Base class of methods that train whole tensors. A subclass says which: `picks`.

    The base is not written to, so adapters can be switched and taken off; that costs a copy of the trainable tensors.
    Of a matrix in 4 bits the copy is dense, with the values that the codes stand for.
    """

    @abstractmethod
    def picks(self, path: str, shapes: Anatomy) -> bool:
        r"""Whether the parameter at `path`, inside the body of a model that is made so, trains."""

    def count(self, config: Any) -> int:
        r"""The sizes of all tensors that `picks` picks: a closed form, from the config alone."""
        return sum(self.sizes(config).values())

    def sizes(self, config: Any) -> dict[str, int]:
        r"""Number of trained elements of each tensor, by its path in the body of the model that `config` describes."""
        with_norm_weights(config)
        shapes = anatomy_of(config)
        return {path: size for path, size in sizes_of(config).items() if self.picks(path, shapes)}

    def _picked(self, model: nn.Module) -> dict[str, tuple[nn.Module, list[str]]]:
        r"""Path of a module of the body -> the module and the names of its tensors that train."""
        with_norm_weights(model.config)
        shapes, prefix, heads = anatomy(model), body_prefix(model), head_names(model)
        found = {}
        for path, module in named_base_modules(model):
            if isinstance(module, AdapterWrapper) or not path.startswith(prefix) or path.split(".")[0] in heads:
                continue
            inside = path.removeprefix(prefix)
            own = [key for key, _ in module.named_parameters(recurse=False)]
            if in_codes(module):
                own.insert(0, "weight")  # codes are no parameter, but what they stand for can train
            if keys := [key for key in own if self.picks(f"{inside}.{key}", shapes)]:
                found[path] = (module, keys)
        return found

    def _check(self, model: nn.Module) -> None:
        if not self._picked(model):
            raise self._nothing(anatomy(model))

    def _nothing(self, shapes: Anatomy) -> CourseError:
        r"""The error for a model in which nothing is picked."""
        return CourseError(f"{self._title} finds nothing to train in this {shapes.family} model")

    def _parts(self, model: nn.Module) -> Parts:
        return {
            path: {key: Whole(getattr(module, key), key == "weight" and transposed(module)) for key in keys}
            for path, (module, keys) in self._picked(model).items()
        }

    def touched(self, model: nn.Module) -> set[str]:
        return {f"{path}.{key}" for path, (_, keys) in self._picked(model).items() for key in keys}

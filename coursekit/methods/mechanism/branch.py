r"""One adapter at one layer as a plain module, and the frozen layer that carries one for each named adapter.

    x --+--> before(x) --> frozen layer --> y --+
        |                                       +--> forward(y, x) = h
        +---------------------------------------+

A method writes a `Branch`: its `forward` is the equation. Which adapter is active, rows of one batch with an adapter
each, precision, merging and the keys of a checkpoint are settled here for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from coursekit.methods.mechanism.attachment import Attachment, wrap
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.mixed_batch import by_rows
from coursekit.methods.mechanism.modules import around, standing
from coursekit.methods.mechanism.precision import met
from coursekit.methods.mechanism.switch import Switch, Switched


class Branch(nn.Module, ABC):
    r"""What one adapter does at one frozen layer $y = W_0 x + b$. A subclass holds its parameters and the equation."""

    #: Name of a parameter here -> what a checkpoint calls it, behind the path of the layer.
    keys: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def forward(
        self, y: Float[Tensor, "*batch out"], x: Shaped[Tensor, "*input"]
    ) -> Float[Tensor, "*batch out"]:
        r"""The equation: h, from the frozen layer's output y and its input x (token ids for an embedding)."""

    def before(self, x: Shaped[Tensor, "*input"]) -> Shaped[Tensor, "*input"]:
        r"""What the frozen layer reads instead of x, where the equation changes its input."""
        return x

    def compute(
        self, y: Float[Tensor, "*batch out"], x: Shaped[Tensor, "*input"]
    ) -> Float[Tensor, "*batch out"]:
        r"""`forward` within the 16-bit rule, as a model runs it. A fast twin overrides this with the same bits."""
        return self(y, met(x, next(self.parameters()).dtype)).to(y.dtype)

    def answer(self, layer: nn.Module, x: Shaped[Tensor, "*input"]) -> Float[Tensor, "*batch out"]:
        r"""h, with the frozen `layer` called on the way. A fast twin may make both one operation."""
        return self.compute(layer(self.before(x)), x)

    def merged(self, W: Float[Tensor, "out in"], b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        r"""Weight and bias of the one layer that does the same; the `b` that came in where it stays as it is."""
        raise NotImplementedError(f"{type(self).__name__} has no merged form")

    def tensors(self) -> dict[str, Tensor]:
        r"""What a checkpoint keeps, by key; writing into one of them writes into the parameter."""
        return {key: getattr(self, name) for name, key in self.keys.items()}


class Branched(Switched):
    r"""A frozen layer with a branch beside it for each named adapter."""

    def __init__(self, layer: nn.Module, switch: Switch):
        super().__init__(layer, switch)
        self.branches = nn.ModuleDict()

    @property
    def weight(self) -> nn.Parameter:
        r"""The frozen weight, for code that looks at `layer.weight`."""
        return self.bare.weight

    @property
    def W(self) -> Float[Tensor, "out in"]:
        r"""The frozen weight as $W$ of $Wx$. An embedding and GPT-2's Conv1D store it the other way round."""
        return self.weight.t() if self.transposed else self.weight

    @property
    def transposed(self) -> bool:
        r"""Whether the layer stores $W^\top$."""
        return isinstance(self.bare, (Conv1D, nn.Embedding))

    def add(self, name: str, branch: Branch) -> list[nn.Parameter]:
        r"""Let adapter `name` have `branch` here; gives what trains."""
        self.branches[name] = branch
        return list(branch.parameters())

    def forward(self, x: Shaped[Tensor, "*input"]) -> Float[Tensor, "*batch out"]:
        if self.switch.rows is None:
            name = self.switch.active
            return (
                self.branches[name].answer(self.base_layer, x)
                if name in self.branches
                else self.base_layer(x)
            )
        y = self.base_layer(by_rows(self.switch, self._before, x))
        return by_rows(self.switch, self._compute, y, x)

    def merged(self, name: str) -> dict[str, Tensor]:
        r"""Weight, and bias where it changes, of the one layer that does what this and adapter `name` do together."""
        b = getattr(self.bare, "bias", None)
        W, new = self.branches[name].merged(self.W, b)
        weight = {"weight": (W.t() if self.transposed else W).contiguous()}
        return weight if new is b else weight | {"bias": new}

    def _before(self, name: str | None, x: Tensor) -> Tensor:
        return self.branches[name].before(x) if name in self.branches else x

    def _compute(self, name: str | None, y: Tensor, x: Tensor) -> Tensor:
        return self.branches[name].compute(y, x) if name in self.branches else y


class BranchMethod(Method, ABC):
    r"""A method that puts a branch beside frozen layers. A subclass says beside which, and what a branch is."""

    #: The frozen layer with its branches: a class of the method's own, so that two methods can stand at one layer.
    layer: ClassVar[type[Branched]]

    @abstractmethod
    def places(self, model: nn.Module) -> dict[str, nn.Module]:
        r"""The bare layers of `model` that get a branch, by path."""

    @abstractmethod
    def branch(self, path: str, layer: Branched, config: Any) -> Branch:
        r"""A new branch for `layer`, which stands at `path` in the model that `config` describes."""

    def touched(self, model: nn.Module) -> set[str]:
        return {f"{path}.weight" for path in self.places(model)}

    def branches(self, model: nn.Module, name: str) -> Iterator[tuple[str, Branched]]:
        r"""The layers of `model` at which adapter `name` has a branch of this method, by path."""
        for path, module in standing(model):
            if isinstance(module, self.layer) and name in module.branches:
                yield path, module

    def _insert(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        trained = []
        for path in self.places(model):
            layer = around(model, path, self.layer) or wrap(model, state, path, self.layer)
            trained += layer.add(name, self.branch(path, layer, model.config))
        return trained

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return {
            f"{path}.{key}": value
            for path, layer in self.branches(model, name)
            for key, value in layer.branches[name].tensors().items()
        }

    def _merged_weights(self, model: nn.Module, name: str) -> dict[str, dict[str, Tensor]]:
        return {path: layer.merged(name) for path, layer in self.branches(model, name)}

    def _check(self, model: nn.Module) -> None:
        self.places(model)  # a target that names nothing is an error


def fan_in_fan_out(layers: Any) -> bool:
    r"""peft's word for whether one of `layers` is GPT-2's Conv1D, whose weight is $W^\top$."""
    return any(isinstance(layer, Conv1D) or getattr(layer, "conv1d", False) for layer in layers)

r"""One adapter at one layer as a plain module, and the frozen layer that carries one for each named adapter.

    x --+--> before(x) --> frozen layer --> y --+
        |                                       +--> forward(y, x) = h
        +---------------------------------------+

A method writes a `Branch`: its `forward` is the equation. Which adapter is active, rows of one batch with an adapter
each, precision, merging and the keys of a checkpoint are settled here for all of them.

The 16-bit rule: an adapter beside a 16-bit base is fp32, since an update of 1e-4 would vanish in the seven bits of
bf16; beside an fp64 base it is fp64. Where the two meet, x comes to the adapter's precision and the sum goes back:

    x (bf16) --> base layer (bf16) --> y (bf16) ----(+)--> h (bf16)
      |                                              |
      +--> to fp32 --> branch (fp32) ----------------+

Under autocast an fp32 adapter computes in autocast's precision instead, as every fp32 layer does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from coursekit.autocast import autocast_dtype
from coursekit.methods.mechanism.attachment import Attachment, by_rows, wrap
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper, find_wrapper, named_base_modules

# The 16-bit rule ------------------------------------------------------------------------------------------------------


def adapter_dtype(base: torch.dtype) -> torch.dtype:
    r"""The precision of parameters that train beside a base in precision `base`: fp64 stays, all else gets fp32."""
    return torch.float64 if base == torch.float64 else torch.float32


def like(weight: Tensor) -> dict[str, Any]:
    r"""Device and precision of parameters beside the frozen `weight`, for `torch.empty(..., **like(weight))`."""
    return {"device": weight.device, "dtype": adapter_dtype(weight.dtype)}


def meeting_dtype(x: Tensor, own: torch.dtype) -> torch.dtype:
    r"""The precision in which `x` meets an adapter whose parameters have precision `own`."""
    return (autocast_dtype(x) or own) if own == torch.float32 else own


def met(x: Tensor, own: torch.dtype) -> Tensor:
    r"""`x` in the precision in which it meets an adapter in `own`; token ids and masks as they are."""
    return x.to(meeting_dtype(x, own)) if x.is_floating_point() else x


# One layer ------------------------------------------------------------------------------------------------------------


class Branch(nn.Module, ABC):
    r"""One adapter at one frozen layer $y = W_0 x + b$. A subclass holds its parameters and the equation."""

    #: Name of a parameter here -> what a checkpoint calls it, behind the path of the layer.
    keys: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def forward(self, y: Float[Tensor, "*batch out"], x: Shaped[Tensor, "*input"]) -> Float[Tensor, "*batch out"]:
        r"""The equation: h, from the frozen layer's output y and its input x (token ids for an embedding)."""

    def before(self, x: Shaped[Tensor, "*input"]) -> Shaped[Tensor, "*input"]:
        r"""The input of the frozen layer, where the equation changes it."""
        return x

    def compute(self, y: Float[Tensor, "*batch out"], x: Shaped[Tensor, "*input"]) -> Float[Tensor, "*batch out"]:
        r"""`forward` within the 16-bit rule, as a model runs it. A fast twin overrides this with the same bits."""
        return self(y, met(x, next(self.parameters()).dtype)).to(y.dtype)

    def answer(self, layer: nn.Module, x: Shaped[Tensor, "*input"]) -> Float[Tensor, "*batch out"]:
        r"""h, with the frozen `layer` called on the way. A fast twin may make both one operation."""
        return self.compute(layer(self.before(x)), x)

    def merged(self, W: Float[Tensor, "out in"], b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        r"""Weight and bias of the one layer that does the same; the `b` that came in where it stays as it is."""
        raise NotImplementedError(f"{type(self).__name__} has no merged form")

    def tensors(self) -> dict[str, Tensor]:
        r"""The tensors of a checkpoint, by key; writing into one of them writes into the parameter."""
        return {key: getattr(self, name) for name, key in self.keys.items()}


class Branched(AdapterWrapper):
    r"""A frozen layer with a branch beside it for each named adapter."""

    def __init__(self, layer: nn.Module, switch: AdapterState):
        super().__init__(layer, switch)
        self.branches = nn.ModuleDict()

    @property
    def W(self) -> Float[Tensor, "out in"]:
        r"""The frozen weight as $W$ of $Wx$. An embedding and GPT-2's Conv1D store it the other way round."""
        return self.weight.t() if self.transposed else self.weight

    @property
    def transposed(self) -> bool:
        r"""Whether the layer stores $W^\top$."""
        return isinstance(self.unwrapped, (Conv1D, nn.Embedding))

    def add(self, name: str, branch: Branch) -> list[nn.Parameter]:
        r"""Let adapter `name` have `branch` here; gives the trainable parameters."""
        self.branches[name] = branch
        return list(branch.parameters())

    def forward(self, x: Shaped[Tensor, "*input"]) -> Float[Tensor, "*batch out"]:
        if self.switch.rows is None:
            name = self.switch.active
            return self.branches[name].answer(self.base_layer, x) if name in self.branches else self.base_layer(x)
        changed = any(type(branch).before is not Branch.before for branch in self.branches.values())
        y = self.base_layer(by_rows(self.switch, self._before, x) if changed else x)
        return by_rows(self.switch, self._compute, y, x)

    def merged(self, name: str) -> dict[str, Tensor]:
        r"""Weight, and bias where it changes, of the one layer that does what this and adapter `name` do together."""
        b = getattr(self.unwrapped, "bias", None)
        W, new = self.branches[name].merged(self.W, b)
        weight = {"weight": (W.t() if self.transposed else W).contiguous()}
        return weight if new is b else weight | {"bias": new}

    def _before(self, name: str | None, x: Tensor) -> Tensor:
        return self.branches[name].before(x) if name in self.branches else x

    def _compute(self, name: str | None, y: Tensor, x: Tensor) -> Tensor:
        return self.branches[name].compute(y, x) if name in self.branches else y


class BranchMethod(Method, ABC):
    r"""A method that puts a branch beside frozen layers: `places` says which, `branch` makes one."""

    #: The frozen layer with its branches: a class of the method's own, so that two methods can stand at one layer.
    layer: ClassVar[type[Branched]]

    @abstractmethod
    def places(self, model: nn.Module) -> dict[str, nn.Module]:
        r"""The layers of the base model that get a branch, by path."""

    @abstractmethod
    def branch(self, path: str, layer: Branched, config: Any) -> Branch:
        r"""A new branch for `layer`, the one at `path` in the model that `config` describes."""

    def at(self, path: str, module: nn.Module) -> BranchMethod:
        r"""The method with the settings of one place. Raises CourseError where no branch fits beside the `module`."""
        return self

    def touched(self, model: nn.Module) -> set[str]:
        return {f"{path}.weight" for path in self.places(model)}

    def branches(self, model: nn.Module, name: str) -> Iterator[tuple[str, Branched]]:
        r"""The layers of `model` at which adapter `name` has a branch of this method, by path."""
        for path, module in named_base_modules(model):
            if isinstance(module, self.layer) and name in module.branches:
                yield path, module

    def _check(self, model: nn.Module) -> dict[str, BranchMethod]:
        return {path: self.at(path, module) for path, module in self.places(model).items()}

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        trained = []
        for path, own in found.items():
            layer = find_wrapper(model, path, self.layer) or wrap(model, state, path, self.layer)
            trained += layer.add(name, own.branch(path, layer, model.config))
        return trained

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return {
            f"{path}.{key}": value
            for path, layer in self.branches(model, name)
            for key, value in layer.branches[name].tensors().items()
        }

    def _merged_weights(self, model: nn.Module, name: str) -> dict[str, dict[str, Tensor]]:
        return {path: layer.merged(name) for path, layer in self.branches(model, name)}

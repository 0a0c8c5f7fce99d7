r"""A frozen layer of which a part trains, for each adapter another part.

    x ──> layer with W, b ──────────────────────────────> y        the base, or an adapter without a part here
    x ──> layer with W, b, the adapter's values in place ──> y      `written`: W and b themselves stay as they are

Which of the two it is the switch says, in a mixed batch for each row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from coursekit.autocast import autocast_dtype
from coursekit.methods.mechanism.attachment import Attachment, by_rows, wrap
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper, find_wrapper, in_codes, named_base_modules
from coursekit.methods.selective.parts import Part, PartProduct

#: Path of a module -> name of a tensor of it, "weight" or "bias" -> the part of that tensor that trains.
Parts = dict[str, dict[str, Part]]


class PartLayer(AdapterWrapper):
    r"""A layer that computes with parts of its weight and bias replaced by those of the active adapter.

    The layer's own tensors are not written to: each pass computes with a copy that has the values in place. The
    computation is the layer's own: while the values are those of the layer the outputs are equal bit for bit, on every
    device, and merging the values in changes no bit either.
    """

    order: ClassVar[int] = 0

    def __init__(self, layer: nn.Module, switch: AdapterState):
        super().__init__(layer, switch)
        self.weights, self.biases = nn.ModuleDict(), nn.ModuleDict()  # of Part, by adapter name

    @property
    def bias(self) -> nn.Parameter | None:
        r"""The frozen bias, for code that looks at `layer.bias`."""
        return self.unwrapped.bias

    def add(self, name: str, parts: dict[str, Part]) -> list[nn.Parameter]:
        r"""Let adapter `name` have these `parts`; gives the trainable parameters."""
        for key, part in parts.items():
            self._store(key)[name] = part
        return [part.values for part in parts.values()]

    def parts(self, name: str | None, method: str | None = None) -> dict[str, Part]:
        r"""The parts of adapter `name` by the name of their tensor; of one `method`, where its kind is given."""
        stores = (("weight", self.weights), ("bias", self.biases))
        found = {key: store[name] for key, store in stores if name in store}
        return found if method is None else {k: part for k, part in found.items() if part.method == method}

    def drop(self, name: str, keys: Iterable[str]) -> None:
        r"""Take the parts of the tensors `keys` from adapter `name`."""
        for key in keys:
            del self._store(key)[name]

    def written(self, name: str) -> dict[str, Tensor]:
        r"""The layer's tensors with the values of adapter `name` in their places."""
        return {key: self._written(key, part) for key, part in self.parts(name).items()}

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return by_rows(self.switch, lambda name, x: self.answer(name, x, *args, **kwargs), x)

    def answer(self, name: str | None, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        r"""The output with the values of adapter `name` in place, or of the layer as it is."""
        parts, layer = self.parts(name), self.base_layer
        if not parts:
            return layer(x, *args, **kwargs)
        if "weight" not in parts or not self.is_linear:
            return functional_call(layer, self.written(name), (x, *args), kwargs)
        dtype = autocast_dtype(x) or x.dtype
        x = x.to(getattr(layer, "compute_dtype", None) or dtype)
        b = self._written("bias", parts["bias"]) if "bias" in parts else layer.bias
        b = None if b is None else b.to(x.dtype)
        return PartProduct.apply(x, parts["weight"].values, b, layer, parts["weight"]).to(dtype)

    @property
    def is_linear(self) -> bool:
        r"""Whether $Wx + b$ is all that the layer does: no other method inside, nobody's hook."""
        layer = self.base_layer
        if in_codes(layer):  # there is no weight in it that a call could be given another one for
            return True
        return (
            type(layer) in (nn.Linear, Conv1D)
            and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)
            and "forward" not in layer.__dict__
        )

    def _written(self, key: str, part: Part) -> Tensor:
        r"""The layer's tensor `key` with the part's values in place. One that it does not have is in its precision."""
        tensor = getattr(self.unwrapped, key)
        written = part.written(tensor)
        return written.to(self.unwrapped.weight.dtype) if tensor is None else written

    def _store(self, key: str) -> nn.ModuleDict:
        return {"weight": self.weights, "bias": self.biases}[key]


class PartMethod(Method, ABC):
    r"""Base class of methods that train parts of the frozen tensors."""

    @abstractmethod
    def _parts(self, model: nn.Module) -> Parts:
        r"""New parts for `model`, with the model's own values in them."""

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        return self._put(model, state, name, self._parts(model))

    def _put(self, model: nn.Module, state: Attachment, name: str, parts: Parts) -> list[nn.Parameter]:
        r"""Let adapter `name` have `parts`, in wrappers where there are none yet; gives the trainable parameters."""
        trained = []
        for path, own in parts.items():
            layer = find_wrapper(model, path, PartLayer) or wrap(model, state, path, PartLayer)
            for part in own.values():
                part.method = self.kind  # in a hybrid, others may have parts of other tensors
            trained += layer.add(name, own)
        return trained

    def _take(self, model: nn.Module, name: str) -> list[nn.Parameter]:
        r"""Take the parts of adapter `name` out of `model`; gives what trained."""
        gone = self._parts_of(model, name)
        for path, parts in gone.items():
            find_wrapper(model, path, PartLayer).drop(name, parts)
        return [part.values for parts in gone.values() for part in parts.values()]

    def _parts_of(self, model: nn.Module, name: str) -> Parts:
        r"""The parts of adapter `name` in `model` that are this method's."""
        return parts_of(model, name, self.kind)

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return {
            f"{path}.{key}{part.key}": part.values
            for path, parts in self._parts_of(model, name).items()
            for key, part in parts.items()
        }

    def _merged_weights(self, model: nn.Module, name: str) -> dict[str, dict[str, Tensor]]:
        r"""The tensors that the adapter has computed with all the time: not a bit of an answer changes."""
        layers = _layers(model)
        return {
            path: {key: tensor for key, tensor in layers[path].written(name).items() if key in parts}
            for path, parts in self._parts_of(model, name).items()
        }


def parts_of(model: nn.Module, name: str, method: str | None = None) -> Parts:
    r"""The parts of adapter `name` in `model`, or those of one method of a hybrid, by its kind."""
    found = {path: layer.parts(name, method) for path, layer in _layers(model).items()}
    return {path: parts for path, parts in found.items() if parts}


def _layers(model: nn.Module) -> dict[str, PartLayer]:
    return {path: module for path, module in named_base_modules(model) if isinstance(module, PartLayer)}

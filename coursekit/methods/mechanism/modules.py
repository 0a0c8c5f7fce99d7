r"""A model's modules by name, and the wrappers around them.

A path is always that of the base model. Wrappers nest: prefix tuning wraps an attention in which LoRA wraps the query.
What is called by a path then does not depend on what else is attached, or on what came first.

    path "attention"          AdapterWrapper( AdapterWrapper( base module ) )
                              ^ `at`          ^ `find_wrapper`  ^ `unwrap`
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from coursekit.errors import CourseError
from coursekit.methods.mechanism.names import matched

LINEAR = (nn.Linear, Conv1D)
EVERY = (*LINEAR, nn.Embedding)
#: Names under which transformers keeps the task head of an encoder or decoder with a classifier.
HEADS = ("classifier", "score", "qa_outputs")
#: How transformers calls models of a task that pretraining does not have.
TASKS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


# Wrappers -----------------------------------------------------------------------------------------------------------


class MixedRows(dict[str | None, Tensor]):
    r"""The rows of a mixed batch: adapter name (None: the base) -> its rows, from the name of each row."""

    def __init__(self, names: Sequence[str | None], device: torch.device):
        own = {name: [i for i, n in enumerate(names) if n == name] for name in dict.fromkeys(names)}
        super().__init__((name, torch.tensor(rows, device=device)) for name, rows in own.items())
        #: Counted once: a layer that answers one token takes little longer than counting.
        self.size, self.sizes = len(names), [len(rows) for rows in own.values()]
        #: The rows one adapter's after the other's, and the way back from there.
        self.sort = torch.cat([*self.values()])
        self.unsort = self.sort.argsort()


@dataclass
class AdapterState:
    r"""The active adapter, shared by all wrappers of a model, so that switching is one assignment."""

    active: str | None = None
    #: In a mixed batch: which adapter answers which row.
    rows: MixedRows | None = None
    #: In a mixed batch: the rows being computed, for modules that have to know which they are (a gate's mask).
    part: Tensor | None = None

    def parts(self, x: Tensor) -> Iterator[tuple[str | None, Tensor]]:
        r"""(adapter, its rows) for a mixed batch `x`. Raises CourseError if the batch has another number of rows."""
        self.fits(x)
        yield from self.rows.items()

    def fits(self, x: Tensor) -> None:
        r"""Raise CourseError where a mixed batch `x` has another number of rows than there are adapter names."""
        if len(x) != self.rows.size:
            raise CourseError(
                f"mixed_batch() was given {self.rows.size} adapter names, but the batch has {len(x)} rows"
            )

    @contextlib.contextmanager
    def only(self, name: str | None) -> Iterator[None]:
        r"""Make adapter `name` the active one, for the length of a `with`; None is the base."""
        before, (self.active, self.rows) = (self.active, self.rows), (name, None)
        try:
            yield
        finally:
            self.active, self.rows = before


class AdapterWrapper(nn.Module):
    r"""A module around `base_layer`, or beside the model (None), whose output depends on the active adapter.

    Its hooks are its own bound methods, so that in a copy of the model they belong to the copy.
    """

    #: Nesting order of wrappers around one module, from the inside out, whichever came first: 0 replaces the module's
    #: tensors, 1 changes its output, 2 changes its input.
    order: ClassVar[int] = 1

    def __init__(self, base_layer: nn.Module | None, switch: AdapterState):
        super().__init__()
        self.base_layer, self.switch = base_layer, switch

    @property
    def unwrapped(self) -> nn.Module:
        r"""The wrapped module of the base model, below all wrappers in between."""
        return unwrap(self.base_layer)

    @property
    def weight(self) -> nn.Parameter:
        r"""The frozen weight, for code that looks at `layer.weight`."""
        return self.unwrapped.weight

    def follow(self, training: bool) -> None:
        r"""Put the added modules in the model's mode: a new module is in train mode, and its dropout would drop."""
        self.training = training
        for child, module in self.named_children():
            if child != "base_layer":
                module.train(training)

    def forget(self, name: str) -> None:
        r"""Drop everything of adapter `name`."""
        for store in self.children():
            if isinstance(store, (nn.ModuleDict, nn.ParameterDict)) and name in store:
                del store[name]


T = TypeVar("T", bound=AdapterWrapper)


def unwrap(module: nn.Module) -> nn.Module:
    r"""The base module inside `module` and its wrappers; `module` itself where it is none."""
    while isinstance(module, AdapterWrapper) and module.base_layer is not None:
        module = module.base_layer
    return module


def at(model: nn.Module, path: str) -> nn.Module:
    r"""The outermost wrapper at `path`, or the module itself."""
    parent, name = _parent(model, path)
    return getattr(parent, name)


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    r"""Put `module` at `path`, in place of the module there and all its wrappers."""
    parent, name = _parent(model, path)
    setattr(parent, name, module)


def find_wrapper(model: nn.Module, path: str, kind: type[T]) -> T | None:
    r"""The wrapper of `kind` around the module at `path`, or None."""
    found = at(model, path)
    while isinstance(found, AdapterWrapper) and not isinstance(found, kind):
        found = found.base_layer
    return found if isinstance(found, kind) else None


def wrap_module(model: nn.Module, path: str, kind: type[T], switch: AdapterState, *args: Any) -> T:
    r"""Put a new `kind(wrapped, switch, *args)` around the module at `path`, inside wrappers of a higher `order`.

    Hooks of other methods on the wrapped module move to the wrapper: they are meant for the output at this path.
    """
    parent, name = _parent(model, path)
    while isinstance(outer := getattr(parent, name), AdapterWrapper) and outer.order > kind.order:
        parent, name = outer, "base_layer"
    wrapper = kind(outer, switch, *args)
    wrapper.training = outer.training
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        theirs, ours = getattr(outer, hooks), getattr(wrapper, hooks)
        own = [k for k, hook in theirs.items() if isinstance(getattr(hook, "__self__", None), AdapterWrapper)]
        for key in own:
            ours[key] = theirs.pop(key)
    setattr(parent, name, wrapper)
    return wrapper


def _parent(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    *parts, name = path.split(".")
    for part in parts:
        model = unwrap(getattr(model, part))
    return model, name


# Modules of the base model ------------------------------------------------------------------------------------------


def named_base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    r"""Every module of the base model by its path, after its wrappers, which have the same path.

    What a wrapper holds for its adapters is no part of the base model and is not listed.
    """
    yield from _below("", model)


def _below(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    if isinstance(module, AdapterWrapper):
        if module.base_layer is not None:
            yield from _below(path, module.base_layer)
        return
    for name, child in module.named_children():
        yield from _below(f"{path}.{name}" if path else name, child)


def modules_of(model: nn.Module, kinds: tuple[type, ...]) -> Iterator[tuple[str, nn.Module]]:
    r"""The modules of one of `kinds` by path, in the model's order, without task heads."""
    heads = head_names(model)
    #: A module of one of `kinds` is one thing: neither its parts nor the module that it wraps are listed again.
    inside: tuple[str, ...] = ()
    for path, module in named_base_modules(model):
        if (
            isinstance(module, kinds)
            and path.split(".")[0] not in heads
            and not (inside and f"{path}.".startswith(inside))
        ):
            inside = (*inside, path + ".")
            yield path, module


def find(model: nn.Module, targets: Iterable[str], kinds: tuple[type, ...]) -> dict[str, nn.Module]:
    r"""Modules of one of `kinds` that `targets` name, by path, in the model's order, without task heads.

    Raises CourseError, listing the candidates, for a target that names nothing.
    """
    return matched(dict(modules_of(model, kinds)), targets)


def all_linear(model: nn.Module, kinds: tuple[type, ...] = LINEAR) -> dict[str, nn.Module]:
    r"""Every linear map inside the blocks, by path: not the embeddings, not the output layer, not the head."""
    return {path: module for path, module in modules_of(model, kinds) if in_a_block(path)}


def in_a_block(path: str) -> bool:
    r"""Whether `path` leads through a numbered list of modules."""
    return any(part.isdigit() for part in path.split("."))


def head_names(model: nn.Module) -> list[str]:
    r"""Names of the task heads of `model`: freshly initialised for a task, so every method trains them whole.

    In a model of a task these are all parts with parameters beside the body, such as DistilBERT's `pre_classifier`.
    """
    for_a_task = type(model).__name__.endswith(TASKS)
    return [name for name, part in model.named_children() if name in HEADS or (for_a_task and _is_head(model, part))]


def _is_head(model: nn.Module, part: nn.Module) -> bool:
    added = isinstance(part, AdapterWrapper) and part.base_layer is None
    return part is not model.base_model and not added and any(True for _ in part.parameters())


def output_layer(model: nn.Module) -> nn.Module | None:
    r"""The base layer that makes logits over the vocabulary, where `model` has one and transformers can name it."""
    named = getattr(model, "get_output_embeddings", None)
    return None if named is None else unwrap(named())


def body_prefix(model: nn.Module) -> str:
    r"""Prefix of the paths of the body: "bert." in a classifier, "" where `model` is the body itself."""
    path = next(path for path, module in named_base_modules(model) if module is model.base_model)
    return f"{path}." if path else ""


def is_conv1d(layer: nn.Module) -> bool:
    r"""Whether `layer` is GPT-2's Conv1D, or one in 4 bits."""
    return isinstance(layer, Conv1D) or getattr(layer, "conv1d", False)


def fan_in_fan_out(layers: Iterable[nn.Module]) -> bool:
    r"""peft's word for whether one of `layers` is GPT-2's Conv1D, whose weight is $W^\top$."""
    return any(map(is_conv1d, layers))


def in_codes(layer: nn.Module) -> bool:
    r"""Whether the weight of `layer` is stored in a few bits (`qlora.linear.Linear4bit`): it is unpacked to be used,
    and does not train.
    """
    return isinstance(layer, nn.Linear) and hasattr(type(layer), "quantized")

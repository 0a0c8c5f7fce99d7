r"""What every method of the course shares: attach, count, save, load, merge, detach.

A method is a frozen dataclass of hyperparameters and keeps no state. What attaching changed is remembered in one
`Attachment` per model, so that several named adapters can live on one frozen base, be switched, serve different
rows of one batch, and be taken off again without a trace.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from coursekit import interop
from coursekit.errors import CourseError, unknown
from coursekit.methods import surgery
from coursekit.methods.surgery import T, at, head_names, replace
from coursekit.methods.switched import Switch, Switched


@dataclass
class Attachment:
    r"""All that attaching changed in one model, and how to undo it."""

    switch: Switch
    flags: dict[str, bool]  # requires_grad of every parameter before the first attach
    methods: dict[str, Method] = field(default_factory=dict)  # by adapter name
    originals: dict[str, nn.Module] = field(default_factory=dict)  # path -> the bare module there
    parameters: dict[str, list[nn.Parameter]] = field(default_factory=dict)  # by adapter name: what trains
    added: list[str] = field(default_factory=list)  # paths of modules put where there was none
    hooks: list[RemovableHandle] = field(default_factory=list)
    merged: dict[str, Any] | None = None  # while folded: what `unmerge` needs


#: What keeps parameters by adapter name: a name must not be that of an attribute.
_STORES = (nn.ModuleDict(), nn.ParameterDict())


class SwitchedHead(Switched):
    r"""A task head, which trains whole: the original, and one copy for each adapter."""

    def __init__(self, base: nn.Module, switch: Switch):
        super().__init__(base, switch)
        self.copies = nn.ModuleDict()

    def chosen(self, name: str | None) -> nn.Module:
        r"""The copy of adapter `name`, or the original."""
        return self.copies[name] if name in self.copies else self.base  # noqa: SIM401 - ModuleDict has no get

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.switch.rows is None:
            return self.chosen(self.switch.active)(x, *args, **kwargs)
        parts = {name: self.chosen(name)(x[index], *args, **kwargs) for name, index in self.switch.parts(x)}
        if len({part.shape[1:] for part in parts.values()}) > 1:
            sizes = ", ".join(f"{name}: {tuple(part.shape[1:])}" for name, part in parts.items())
            raise CourseError(f"rows of one batch need task heads of one size, these differ: {sizes}")
        first = next(iter(parts.values()))
        y = first.new_empty(len(x), *first.shape[1:])
        for name, index in self.switch.parts(x):
            y = y.index_copy(0, index, parts[name])
        return y


class Method(ABC):
    r"""The interface of every method. Subclasses are frozen dataclasses and fill in the parts with an underscore."""

    #: Name of the method in checkpoints (peft's name where peft has the method).
    kind: ClassVar[str]

    def attach(self, model: nn.Module, name: str = "default") -> nn.Module:
        r"""Freeze `model` and add or free the parameters of this method, in place, under `name`, and make it active.

        Raises CourseError if `name` is taken, if a different method is attached, or if the method does not fit.
        """
        if not isinstance(model, nn.Module) or not hasattr(model, "config"):
            raise CourseError(
                f"{type(self).__name__} attaches to a model of transformers, such as load_encoder() gives, and this "
                f"is a {type(model).__name__}"
            )
        if any(p.is_meta for p in model.parameters()) and any(hasattr(m, "_hf_hook") for m in model.modules()):
            raise CourseError(
                "some weights of this model are offloaded and not in memory, and what stands beside them has to be: "
                "load it onto one device, in fewer bits if it is too large"
            )
        state = _state(model)
        if not isinstance(name, str) or not name.isidentifier():
            raise CourseError(
                f"adapter name {name!r} is not usable: take letters, digits and _, such as 'film'"
            )
        if any(hasattr(store, name) for store in _STORES):
            raise CourseError(
                f"adapter name {name!r} is a word of PyTorch's own: take another, such as '{name}_1'"
            )
        if state and name in state.methods:
            raise CourseError(
                f"{type(self).__name__} cannot attach: this model already has an adapter named {name!r}; "
                f"call detach(model) first, or attach under another name"
            )
        if state and (other := next(iter(state.methods.values())))._kinds != self._kinds:
            raise CourseError(
                f"{self._title} cannot attach: this model already carries {other._title}; call detach(model) first"
            )
        if state and state.merged:
            raise CourseError(
                "this model has its adapter merged; call unmerge(model) before attaching another"
            )
        self._check(model)  # nothing has been touched yet: an error here leaves the model as it was
        if state is None:
            state = Attachment(Switch(), {n: p.requires_grad for n, p in model.named_parameters()})
            model._coursekit = state
            model.save_pretrained = partial(_save_whole, model)
            model.requires_grad_(False)
        state.methods[name], state.parameters[name] = self, []
        try:
            state.parameters[name] += self._insert(model, state, name)
            state.parameters[name] += self._insert_heads(model, state, name)
        except BaseException:  # memory that ran out, Ctrl-C: nothing stays half done
            remove(model, name)
            raise
        for module in model.modules():
            if isinstance(module, Switched):
                module.follow(model.training)
        activate(model, name)
        return model

    @abstractmethod
    def count(self, config: Any) -> int:
        r"""Closed form: how many parameters the method trains, task head not counted, from the config alone."""

    def save(self, model: nn.Module, folder: str | Path, name: str | None = None) -> Path:
        r"""Write what was trained (never the base) to `folder`, in peft's format where peft has one."""
        name = self._named(model, name)
        method = _beside(model).methods[name]  # the one that was attached: another may have other settings
        return interop.write(folder, method._config(model), method._learned(model, name))

    def load(self, model: nn.Module, folder: str | Path, name: str = "default") -> nn.Module:
        r"""Read a checkpoint into `model`, attaching first where `name` is not attached yet.

        Raises CourseError, and changes nothing, if the checkpoint is of another method or another model.
        """
        config, tensors = interop.read(folder)
        self._check_kind(config)
        self._check_config(config)
        state = _state(model)
        active = state.switch.active if state else None
        fresh = name not in attached(model)
        if fresh:
            self.attach(model, name)
        else:
            self._named(model, name)
            _beside(model).methods[name]._check_config(config)
        try:
            self._load(model, name, tensors, folder)
        except BaseException:
            if fresh:
                remove(model, name)
            if state is not None:
                activate(model, active)
            raise
        return model

    def merge(self, model: nn.Module, name: str | None = None, undo: bool = True) -> nn.Module:
        r"""Fold what was trained into the base weights and take the extra modules out; `unmerge` undoes it.

        With `undo` the old tensors are kept for `unmerge`, as much memory again as those that change take.
        Only one of several adapters can be merged at a time.
        Raises CourseError for a method whose effect no weights have.
        """
        name = self._named(model, name)
        _merged_once(model)
        with torch.no_grad():
            folded = self._folded(model, name)
        return fold(model, folded, name, undo)

    def detach(self, model: nn.Module) -> nn.Module:
        r"""The base model back, bit for bit: every adapter gone, flags as they were."""
        self._named(model, None)
        return detach(model)

    # What a subclass fills in -----------------------------------------------------------------------------------

    def _check(self, model: nn.Module) -> None:
        r"""Raise CourseError where the method does not fit `model`."""

    @abstractmethod
    def _insert(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        r"""Add the parameters of adapter `name`; return those that train."""

    @abstractmethod
    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        r"""What adapter `name` has learned, under peft's keys, task head not included."""

    @abstractmethod
    def _config(self, model: nn.Module) -> dict[str, Any]:
        r"""peft's adapter_config for this method."""

    def _check_kind(self, config: dict[str, Any]) -> None:
        r"""Raise CourseError where a checkpoint's `config` is of another method."""
        interop.same_method(self.kind, config)

    def _check_config(self, config: dict[str, Any]) -> None:
        r"""Raise CourseError where a checkpoint's `config` is of other hyperparameters than this method's."""

    def _folded(self, model: nn.Module, name: str) -> dict[str, dict[str, Tensor]]:
        r"""Path -> "weight", "bias" -> the tensor that does what base and adapter `name` do together there."""
        raise CourseError(f"{type(self).__name__} does not fold into the weights: keep it attached to use it")

    def _changes(self, model: nn.Module) -> set[str]:
        r"""What the method changes in `model`: names of parameters, and places in words.

        Two methods of one hybrid have none of it in common.
        """
        raise CourseError(f"{type(self).__name__} cannot be part of a hybrid: attach it alone")

    @property
    def _kinds(self) -> tuple[str, ...]:
        r"""What all adapters of one model have in common."""
        return (self.kind,)

    @property
    def _title(self) -> str:
        r"""The method's name in an error."""
        return type(self).__name__

    # ------------------------------------------------------------------------------------------------------------

    def _insert_heads(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        r"""Give adapter `name` its own copy of the task head."""
        trained = []
        for head in head_names(model):
            module = model.get_submodule(head)
            if not isinstance(module, SwitchedHead):
                state.originals[head] = module
                module = SwitchedHead(module, state.switch)
                replace(model, head, module)
            module.copies[name] = copy.deepcopy(module.base)
            trained += module.copies[name].parameters()
        return trained

    def _named(self, model: nn.Module, name: str | None) -> str:
        state = _state(model)
        if state is None or not state.methods:
            raise CourseError(
                f"{type(self).__name__} is not attached to this model; call method.attach(model) first"
            )
        name = name or state.switch.active or next(iter(state.methods))
        if name not in state.methods:
            raise unknown("adapter", name, state.methods)
        if state.methods[name]._kinds != self._kinds:
            raise CourseError(f"adapter {name!r} is a {state.methods[name]._title}, not a {self._title}")
        return name

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: str | Path) -> None:
        own = self._learned(model, name)
        interop.same_tensors(own, tensors, folder)  # all of them, before the first is written
        with torch.no_grad():
            for key, value in own.items():
                value.copy_(tensors[key])

    def _learned(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        tensors = self._tensors(model, name)
        for head in head_names(model):
            module = model.get_submodule(head)
            chosen = module.chosen(name) if isinstance(module, SwitchedHead) else module
            tensors |= {f"{head}.{key}": value for key, value in chosen.state_dict().items()}
        return tensors


def beside(model: nn.Module, state: Attachment, path: str, module: nn.Module) -> nn.Module:
    r"""Put `module` at `path`, where there was none; `detach` takes it out again. Gives the one that is there."""
    if path in state.added:
        return model.get_submodule(path)
    state.added.append(path)
    replace(model, path, module)
    return module


def wrap(model: nn.Module, state: Attachment, path: str, kind: type[T], *args: Any) -> T:
    r"""Put a new `kind(inside, switch, *args)` around what stands at `path`; `detach` takes it off again."""
    wrapper = surgery.wrap(model, path, kind, state.switch, *args)
    state.originals.setdefault(path, wrapper.leaf)
    return wrapper


def attached(model: nn.Module) -> dict[str, Method]:
    r"""The adapters on `model`, by name."""
    state = _state(model)
    return dict(state.methods) if state else {}


def activate(model: nn.Module, name: str | None) -> nn.Module:
    r"""Let adapter `name` answer and train; None: the bare base answers and nothing trains."""
    state = _beside(model)
    if name is not None and name not in state.methods:
        raise unknown("adapter", name, state.methods)
    state.switch.active = name
    for other, parameters in state.parameters.items():
        for parameter in parameters:
            parameter.requires_grad_(other == name)
    return model


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    r"""The base model, for the length of a `with`: the reference model that costs no second copy."""
    with _beside(model).switch.only(None):
        yield model


@contextlib.contextmanager
def rows(model: nn.Module, names: Sequence[str | None]) -> Iterator[nn.Module]:
    r"""Different adapters for different rows of one batch: row i of the batch is answered by `names[i]`.

    Shapes: a batch of `len(names)` rows; None in `names` is the bare base.
    """
    state, names = _beside(model), list(names)
    for name in names:
        if name is not None and name not in state.methods:
            raise unknown("adapter", name, state.methods)
    device = next(model.parameters()).device
    before = state.switch.rows
    state.switch.rows = {
        name: torch.tensor([i for i, n in enumerate(names) if n == name], device=device)
        for name in dict.fromkeys(names)
    }
    # The whole batch is looked at: a layer that gets all tokens in one dimension cannot tell how many rows they are of.
    hook = model.register_forward_pre_hook(partial(_of_the_batch, state.switch), with_kwargs=True)
    try:
        yield model
    finally:
        hook.remove()
        state.switch.rows = before


def _of_the_batch(switch: Switch, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    r"""Hook before a forward pass within `rows`: are there as many names as rows?"""
    given = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    x = next((tensor for tensor in given if isinstance(tensor, Tensor)), None)
    if x is not None and switch.rows is not None:
        switch.fits(x)


def trainable(model: nn.Module) -> int:
    r"""Counted, not derived: how many parameters of `model` require a gradient, task head included."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def fold(model: nn.Module, folded: dict[str, dict[str, Tensor]], name: str, undo: bool) -> nn.Module:
    r"""Put folded tensors (path of a wrapped module -> "weight", "bias" -> new value) into the base, wrappers out.

    A tied weight that is folded on one side only is tied no more, and the config says so; one tensor for both sides
    stays one.
    Codes cannot take the sum: in the place of a layer in 4 bits comes a dense one.
    With `undo` the old tensors are kept for `unmerge`; without it the model is an ordinary model from here on.
    """
    from coursekit.quantization.linear import Linear4bit

    _merged_once(model)
    state = _needed(model)
    state.merged = {"tensors": {}, "modules": {}, "tied": getattr(model.config, "tie_word_embeddings", None)}
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    owners -= Counter(id(state.originals[p]._parameters.get(key)) for p in folded for key in folded[p])
    made: dict[int, nn.Parameter] = {}
    for path, original in state.originals.items():
        wrapper = at(model, path)
        state.merged["modules"][path] = wrapper
        if isinstance(original, Linear4bit) and "weight" in folded.get(path, ()):
            replace(model, path, original.dense(**folded[path]))
        elif path in folded:
            if "weight" in folded[path] and owners[id(original.weight)] > 0:
                model.config.tie_word_embeddings = False
            for key, value in folded[path].items():
                state.merged["tensors"][path, key] = getattr(original, key)
                parameter = made.setdefault(id(value), nn.Parameter(value, requires_grad=False))
                setattr(original, key, parameter)
            replace(model, path, original)
        else:  # a task head, whose copy takes the place, or a layer that only another adapter changes
            replace(model, path, wrapper.chosen(name) if isinstance(wrapper, SwitchedHead) else original)
    for path in state.added:  # what stands beside the layers has nothing left to do
        parent, _, child = path.rpartition(".")
        state.merged["modules"][path] = at(model, path)
        delattr(model.get_submodule(parent), child)
    model.requires_grad_(False)
    if not undo:
        for handle in state.hooks:
            handle.remove()
        del model._coursekit, model.save_pretrained
        for parameter_name, parameter in model.named_parameters():
            parameter.requires_grad_(state.flags.get(parameter_name, True))
    return model


def unmerge(model: nn.Module) -> nn.Module:
    r"""Undo `merge`: the base weights as they were, to the bit, and the adapters beside them again."""
    state = _needed(model)
    if state.merged is None:
        raise CourseError("nothing is merged into this model")
    for (path, key), tensor in state.merged["tensors"].items():
        setattr(at(model, path), key, tensor)
    for path, module in state.merged["modules"].items():
        replace(model, path, module)
    if state.merged["tied"] is not None:
        model.config.tie_word_embeddings = state.merged["tied"]
    state.merged = None
    return activate(model, state.switch.active)


def remove(model: nn.Module, name: str) -> None:
    r"""Take one named adapter off; the others stay. The last one that goes restores the base model."""
    state = _needed(model)
    if name not in state.methods:
        raise unknown("adapter", name, state.methods)
    if len(state.methods) == 1:
        detach(model)
        return
    _beside(model)  # what is folded in is not among the modules, so nothing could be taken off it
    for module in model.modules():
        if isinstance(module, Switched):
            module.forget(name)
    del state.methods[name], state.parameters[name]
    if state.switch.active == name:
        activate(model, next(iter(state.methods)))


def detach(model: nn.Module) -> nn.Module:
    r"""Take every adapter off `model` and give back the base, bit for bit."""
    state = _needed(model)
    if state.merged is not None:
        unmerge(model)
    for handle in state.hooks:
        handle.remove()
    for path in state.added:
        parent, _, child = path.rpartition(".")
        delattr(model.get_submodule(parent), child)
    for path, module in state.originals.items():
        replace(model, path, module)
    for name, parameter in model.named_parameters():
        if name in state.flags:  # not what somebody has put into the model since
            parameter.requires_grad_(state.flags[name])
            parameter.grad = None
    del model._coursekit, model.save_pretrained
    return model


def _save_whole(model: nn.Module, *args: Any, **kwargs: Any) -> None:
    r"""`model.save_pretrained` while methods are attached: what it writes, `from_pretrained` cannot read as it was."""
    if any(isinstance(module, Switched) for module in model.modules()):
        warnings.warn(
            "this writes adapters and base into one folder, under names that from_pretrained does not know: use "
            "method.save(model, folder) for the adapter, detach(model) for the base, or merge for both in one",
            stacklevel=2,
        )
    type(model).save_pretrained(model, *args, **kwargs)


def _state(model: nn.Module) -> Attachment | None:
    return getattr(model, "_coursekit", None)


def _merged_once(model: nn.Module) -> None:
    if _needed(model).merged is not None:
        raise CourseError("an adapter is merged already; call unmerge(model) first")


def _beside(model: nn.Module) -> Attachment:
    r"""The state of a model whose adapters stand beside its weights; CourseError where one is folded in."""
    state = _needed(model)
    if state.merged is not None:
        raise CourseError("an adapter is merged into this model's weights; call unmerge(model) first")
    return state


def _needed(model: nn.Module) -> Attachment:
    state = _state(model)
    if state is None:
        raise CourseError("no method is attached to this model; call method.attach(model) first")
    return state

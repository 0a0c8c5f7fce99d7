r"""The interface of every method of the course: attach, count, save, load, merge, detach.

A method is a frozen dataclass of hyperparameters and keeps no state: what attaching changes is recorded in one
`Attachment` per model.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from coursekit import interop
from coursekit.errors import CourseError
from coursekit.methods.mechanism.attachment import (
    Attachment,
    activate,
    attached,
    attachment_of,
    by_rows,
    find_attachment,
    name_of,
    unmerged,
    wrap,
)  # fmt: skip
from coursekit.methods.mechanism.checkpoint import Setting, agree, fields, written
from coursekit.methods.mechanism.merge import detach, merge, undone_after_an_error
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper, at, find_wrapper, head_names

#: Containers of parameters by adapter name: a name must not be that of an attribute.
_STORES = (nn.ModuleDict(), nn.ParameterDict())


#: More parameters than so many times those of the model are no adapter.
MOST = 4


class Method(ABC):
    r"""The interface of every method. Subclasses are frozen dataclasses and fill in the parts with an underscore."""

    #: Name of the method in checkpoints (peft's name where peft has the method).
    kind: ClassVar[str]
    #: Its hyperparameters and the entries of a checkpoint's config.
    entries: ClassVar[Sequence[Setting]] = ()

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
                "some weights of this model are offloaded and not in memory, and what is put beside them has to be: "
                "load it onto one device, in fewer bits if it is too large"
            )
        state = find_attachment(model)
        if not isinstance(name, str) or not name.isidentifier():
            raise CourseError(f"adapter name {name!r} is not usable: take letters, digits and _, such as 'film'")
        if any(hasattr(store, name) for store in _STORES):
            raise CourseError(f"adapter name {name!r} is a word of PyTorch's own: take another, such as '{name}_1'")
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
            raise CourseError("this model has its adapter merged; call unmerge(model) before attaching another")
        found, heads = self._check(model), self.heads(model)  # an error here leaves the model as it was
        with undone_after_an_error(model, name):  # memory that ran out, Ctrl-C: nothing stays half done
            if state is None:
                state = Attachment(AdapterState(), {n: p.requires_grad for n, p in model.named_parameters()})
                model._coursekit = state
                model.save_pretrained = partial(_save_whole, model)
                model.requires_grad_(False)
            state.methods[name], state.parameters[name] = self, []
            state.parameters[name] += self._insert(model, state, name, found)
            state.parameters[name] += self._insert_heads(model, state, name, heads)
        for module in model.modules():
            if isinstance(module, AdapterWrapper):
                module.follow(model.training)
        activate(model, name)
        return model

    @abstractmethod
    def count(self, config: Any) -> int:
        r"""Closed form: how many parameters the method trains, task head not counted, from the config alone."""

    def save(self, model: nn.Module, folder: str | Path, name: str | None = None) -> Path:
        r"""Write what was trained (never the base) to `folder`, in peft's format where peft has one."""
        name = self._named(model, name)
        method = unmerged(model).methods[name]  # the one that was attached: another may have other settings
        return interop.write(folder, method._config(model), method._learned(model, name))

    def load(self, model: nn.Module, folder: str | Path, name: str = "default") -> nn.Module:
        r"""Read a checkpoint into `model`, attaching first where `name` is not attached yet.

        Raises CourseError, and changes nothing, if the checkpoint is of another method or another model.
        """
        config, tensors = interop.read(folder)
        self._check_kind(config)
        self._check_config(config)
        with undone_after_an_error(model, name):
            if name not in attached(model):
                self._check_memory(model, tensors, folder)
                Method.attach(self, model, name)  # what its own attach would look for in data, the file says
            else:
                self._named(model, name)
                unmerged(model).methods[name]._check_config(config)
            self._load(model, name, tensors, folder)
        return model

    def merge(self, model: nn.Module, name: str | None = None, undo: bool = True) -> nn.Module:
        r"""Fold what was trained into the base weights and take the extra modules out; `unmerge` undoes it.

        With `undo` the old tensors are kept for `unmerge`, as much memory again as those that change take.
        Only one of several adapters can be merged at a time.
        Raises CourseError for a method whose effect no weights have.
        """
        name = self._named(model, name)
        state = attachment_of(model)
        if state.merged is not None:
            raise CourseError("an adapter is merged already; call unmerge(model) first")
        with torch.no_grad():
            folded = self._merged_weights(model, name)
        wrapped = state.originals  # not `self.heads`: another may have been attached than this one
        heads = {path: find_wrapper(model, path, AdapterHead) for path in wrapped}
        copies = {path: head.copies[name] for path, head in heads.items() if head and name in head.copies}
        return merge(model, folded, copies, undo)

    def detach(self, model: nn.Module) -> nn.Module:
        r"""The base model back, bit for bit: every adapter gone, flags as they were."""
        self._named(model, None)
        return detach(model)

    # What a subclass fills in -----------------------------------------------------------------------------------

    def _check(self, model: nn.Module) -> Any:
        r"""Raise CourseError where the method does not fit `model`; gives what `_insert` needs of the search for it."""

    @abstractmethod
    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        r"""Add the parameters of adapter `name`, where `_check` has `found` room; return those that train."""

    @abstractmethod
    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        r"""The trained tensors of adapter `name`, under peft's keys, task head not included."""

    def _config(self, model: nn.Module) -> dict[str, Any]:
        r"""The adapter_config of a checkpoint; peft's, where peft has the method."""
        return interop.common_config(model, self.kind) | written(self, self.entries)

    def _check_kind(self, config: dict[str, Any]) -> None:
        r"""Raise CourseError where a checkpoint's `config` is of another method."""
        interop.same_method(self.kind, config)

    def _check_config(self, config: dict[str, Any]) -> None:
        r"""Raise CourseError where a checkpoint's `config` is of other hyperparameters than this method's."""
        agree(self, config, self.entries)

    @classmethod
    def from_checkpoint(cls, folder: str | Path) -> Self:
        r"""The method with the hyperparameters of the checkpoint in `folder`, ours or peft's.

        Raises CourseError where it is of another method, or of one that does not exist here.
        """
        return cls.restored(*interop.read(folder))

    @classmethod
    def restored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
        r"""The method with the hyperparameters of a checkpoint that has been read."""
        interop.same_method(cls.kind, config)
        return cls(**fields(config, cls.entries))

    def _merged_weights(self, model: nn.Module, name: str) -> dict[str, dict[str, Tensor]]:
        r"""Path -> "weight", "bias" -> the tensor that does what base and adapter `name` do together there."""
        raise CourseError(f"{type(self).__name__} does not fold into the weights: keep it attached to use it")

    def touched(self, model: nn.Module) -> set[str]:
        r"""Everything that the method changes in `model`: names of parameters, and places in words.

        Two methods of one hybrid have none of it in common.
        """
        raise CourseError(f"{type(self).__name__} cannot be part of a hybrid: attach it alone")

    def heads(self, model: nn.Module) -> list[str]:
        r"""Paths of the modules of `model` that train whole, a copy for each adapter: the task head."""
        return head_names(model)

    @property
    def _kinds(self) -> tuple[str, ...]:
        r"""Kinds of the method and its parts; equal for all adapters of one model."""
        return (self.kind,)

    @property
    def _title(self) -> str:
        r"""The method's name in an error."""
        return type(self).__name__

    # ------------------------------------------------------------------------------------------------------------

    def _insert_heads(self, model: nn.Module, state: Attachment, name: str, heads: list[str]) -> list[nn.Parameter]:
        r"""Give adapter `name` its own copy of the modules that train whole."""
        trained = []
        for head in heads:
            module = find_wrapper(model, head, AdapterHead) or wrap(model, state, head, AdapterHead)
            module.copies[name] = copy.deepcopy(module.unwrapped)
            trained += module.copies[name].parameters()
        return trained

    def _named(self, model: nn.Module, name: str | None) -> str:
        state = find_attachment(model)
        if state is None or not state.methods:
            raise CourseError(f"{type(self).__name__} is not attached to this model; call method.attach(model) first")
        name = name_of(model, name)
        if state.methods[name]._kinds != self._kinds:
            raise CourseError(f"adapter {name!r} is a {state.methods[name]._title}, not a {self._title}")
        return name

    def _check_memory(self, model: nn.Module, tensors: dict[str, Tensor], folder: str | Path) -> None:
        r"""Raise CourseError where the sizes in a checkpoint's config ask for far more memory than its tensors."""
        held = sum(t.numel() for t in (*tensors.values(), *model.parameters()))
        if (asked := self.count(model.config)) > MOST * max(held, 10**7):
            raise CourseError(
                f"the checkpoint in {folder} is damaged: its config asks for {asked:,} parameters, and it holds "
                f"{sum(t.numel() for t in tensors.values()):,}"
            )

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: str | Path) -> None:
        own = self._learned(model, name)
        interop.same_tensors(own, tensors, folder)  # all of them, before the first is written
        with torch.no_grad():
            for key, value in own.items():
                value.copy_(tensors[key])

    def _learned(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        tensors = self._tensors(model, name)
        for head in self.heads(model):
            module = find_wrapper(model, head, AdapterHead)
            chosen = at(model, head) if module is None else module.chosen(name)
            tensors |= {f"{head}.{key}": value for key, value in chosen.state_dict().items()}
        return tensors


class AdapterHead(AdapterWrapper):
    r"""A module that trains whole, such as a new task head: the original, and one copy for each adapter."""

    order: ClassVar[int] = 0

    def __init__(self, base: nn.Module, switch: AdapterState):
        super().__init__(base, switch)
        self.copies = nn.ModuleDict()

    def chosen(self, name: str | None) -> nn.Module:
        r"""The copy of adapter `name`, or the original."""
        return self.copies[name] if name in self.copies else self.base_layer  # noqa: SIM401 - ModuleDict has no get

    @property
    def weight(self) -> nn.Parameter:
        r"""The weight of the active adapter, for code that looks at `layer.weight`."""
        return self.chosen(self.switch.active).weight

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return by_rows(self.switch, lambda name, rows: self.chosen(name)(rows, *args, **kwargs), x)


def _save_whole(model: nn.Module, *args: Any, **kwargs: Any) -> None:
    r"""`model.save_pretrained` while methods are attached, with a warning: `from_pretrained` cannot read the result."""
    if any(isinstance(module, AdapterWrapper) for module in model.modules()):
        warnings.warn(
            "this writes adapters and base into one folder, under names that from_pretrained does not know: use "
            "method.save(model, folder) for the adapter, detach(model) for the base, or merge for both in one",
            stacklevel=2,
        )
    type(model).save_pretrained(model, *args, **kwargs)

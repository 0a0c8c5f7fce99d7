r"""The ways back to a plain model: merging an adapter into the base weights, and taking adapters off.

    attached    at a path: wrapper( original )          W_0 in the original
       |  ^
 merge |  | unmerge                                     kept: the wrapper, and W_0
       v  |
    merged      at a path: original                     W_0 + sBA in it

With undo=False nothing is kept and nothing leads back: an ordinary model. `remove` takes one adapter of several off,
`detach` all of them: the base model is back bit for bit.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from coursekit.errors import CourseError, one_of
from coursekit.methods.mechanism.attachment import (
    Attachment,
    activate,
    attached,
    attachment_of,
    find_attachment,
    unmerged,
)  # fmt: skip
from coursekit.methods.mechanism.modules import AdapterWrapper, at, in_codes, replace

#: Path of a wrapped module -> "weight", "bias" -> the tensor that does what base and adapter do together there.
Merged = dict[str, dict[str, Tensor]]


@dataclass
class Kept:
    r"""The state that `unmerge` restores."""

    tied: bool | None  # what the config said of the output layer
    tensors: dict[tuple[str, str], Tensor] = field(default_factory=dict)  # (path, key) -> the base's own
    modules: dict[str, nn.Module] = field(default_factory=dict)  # path -> the wrapper that was there


def merge(model: nn.Module, merged: Merged, copies: dict[str, nn.Module], undo: bool) -> nn.Module:
    r"""Put the `merged` tensors into the base and take the wrappers out; `copies` come in place of whole modules.

    With `undo` the old tensors are kept for `unmerge`; without it the model is an ordinary model from here on.
    """
    state = attachment_of(model)
    kept = state.merged = Kept(getattr(model.config, "tie_word_embeddings", None))
    if unties(model, state, merged, copies):
        model.config.tie_word_embeddings = False
    made: dict[int, nn.Parameter] = {}  # one tensor for both sides of a tie stays one
    for path, original in state.originals.items():
        kept.modules[path] = at(model, path)
        tensors, stays = merged.get(path, {}), original
        if path in copies:
            stays, tensors = copies[path], {}
        elif in_codes(original) and "weight" in tensors:  # codes cannot take the sum: a dense layer replaces them
            stays, tensors = original.dense(**tensors), {}
        for key, value in tensors.items():
            kept.tensors[path, key] = getattr(original, key)
            setattr(original, key, made.setdefault(id(value), nn.Parameter(value, requires_grad=False)))
        replace(model, path, stays)
    for path in state.added:
        kept.modules[path] = at(model, path)
    _take_out(model, state)
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
    state = attachment_of(model)
    if state.merged is None:
        raise CourseError("nothing is merged into this model")
    for (path, key), tensor in state.merged.tensors.items():
        setattr(at(model, path), key, tensor)
    for path, module in state.merged.modules.items():
        replace(model, path, module)
    if state.merged.tied is not None:
        model.config.tie_word_embeddings = state.merged.tied
    state.merged = None
    return activate(model, state.switch.active)


def unties(model: nn.Module, state: Attachment, merged: Merged, copies: dict[str, nn.Module]) -> bool:
    r"""Whether merging breaks weight tying: a merged or copied weight is also used where it stays as it was."""
    own = {(path, key): state.originals[path]._parameters.get(key) for path in merged for key in merged[path]}
    users = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    if any(users[id(getattr(state.originals[path], "weight", None))] > 1 for path in copies):
        return True
    users -= Counter(map(id, own.values()))
    return any(key == "weight" and users[id(weight)] > 0 for (_, key), weight in own.items())


# Taking off -----------------------------------------------------------------------------------------------------------


def remove(model: nn.Module, name: str) -> None:
    r"""Take one named adapter off; the others stay. The last one that goes restores the base model."""
    state = attachment_of(model)
    one_of("adapter", name, state.methods)
    if len(state.methods) == 1:
        detach(model)
        return
    unmerged(model)  # merged, an adapter has no modules that could be taken off
    for module in model.modules():
        if isinstance(module, AdapterWrapper):
            module.forget(name)
    del state.methods[name], state.parameters[name]
    if state.switch.active == name:
        activate(model, next(iter(state.methods)))


def detach(model: nn.Module) -> nn.Module:
    r"""Take every adapter off `model` and give back the base, bit for bit."""
    state = attachment_of(model)
    if state.merged is not None:
        unmerge(model)
    for handle in state.hooks:
        handle.remove()
    _take_out(model, state)
    for path, module in state.originals.items():
        replace(model, path, module)
    for name, parameter in model.named_parameters():
        if name in state.flags:  # not one that somebody has put into the model since
            parameter.requires_grad_(state.flags[name])
            parameter.grad = None
    del model._coursekit, model.save_pretrained
    return model


def _take_out(model: nn.Module, state: Attachment) -> None:
    r"""Remove the modules that were added beside the base's."""
    for path in state.added:
        parent, _, child = path.rpartition(".")
        delattr(model.get_submodule(parent), child)


@contextlib.contextmanager
def undone_after_an_error(model: nn.Module, name: str) -> Iterator[None]:
    r"""Take adapter `name` off again where something fails in the `with` that attaches it: all steps or none."""
    state, there = find_attachment(model), attached(model)
    active = state.switch.active if state else None
    try:
        yield
    except BaseException:
        if name in attached(model) and name not in there:
            remove(model, name)
            if state is not None:
                activate(model, active)
        raise

r"""Merging: what an adapter learned goes into the base weights, the extra modules go, and `unmerge` undoes it.

    attached    at a path: wrapper( original )          W_0 in the original
       |  ^
 merge |  | unmerge                                     what is kept: the wrapper, and W_0
       v  |
    merged      at a path: original                     W_0 + sBA in it

With undo=False nothing is kept and nothing leads back: an ordinary model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.methods.mechanism.attachment import Attachment, activate, attachment_of
from coursekit.methods.mechanism.heads import SwitchedHead
from coursekit.methods.mechanism.modules import around, at, in_codes, replace

#: Path of a wrapped module -> "weight", "bias" -> the tensor that does what base and adapter do together there.
Merged = dict[str, dict[str, Tensor]]


@dataclass
class Kept:
    r"""What `unmerge` puts back."""

    tied: bool | None  # what the config said of the output layer
    tensors: dict[tuple[str, str], Tensor] = field(default_factory=dict)  # (path, key) -> the base's own
    modules: dict[str, nn.Module] = field(default_factory=dict)  # path -> what stood there


def merge(model: nn.Module, merged: Merged, name: str, undo: bool) -> nn.Module:
    r"""Put the `merged` tensors of adapter `name` into the base and take the wrappers out.

    With `undo` the old tensors are kept for `unmerge`; without it the model is an ordinary model from here on.
    """
    merged_once(model)
    state = attachment_of(model)
    kept = state.merged = Kept(getattr(model.config, "tie_word_embeddings", None))
    copies = copies_of(model, state, name)
    if unties(model, state, merged, copies):
        model.config.tie_word_embeddings = False
    made: dict[int, nn.Parameter] = {}  # one tensor for both sides of a tie stays one
    for path, original in state.originals.items():
        kept.modules[path] = at(model, path)
        tensors, stays = merged.get(path, {}), original
        if path in copies:
            stays, tensors = copies[path], {}
        elif (
            in_codes(original) and "weight" in tensors
        ):  # codes cannot take the sum: a dense layer comes instead
            stays, tensors = original.dense(**tensors), {}
        for key, value in tensors.items():
            kept.tensors[path, key] = getattr(original, key)
            setattr(original, key, made.setdefault(id(value), nn.Parameter(value, requires_grad=False)))
        replace(model, path, stays)
    for path in state.added:  # what stands beside the layers has nothing left to do
        kept.modules[path] = at(model, path)
        parent, _, child = path.rpartition(".")
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


def merged_once(model: nn.Module) -> None:
    if attachment_of(model).merged is not None:
        raise CourseError("an adapter is merged already; call unmerge(model) first")


def copies_of(model: nn.Module, state: Attachment, name: str) -> dict[str, nn.Module]:
    r"""The copies that adapter `name` has of whole modules, by path."""
    heads = {path: around(model, path, SwitchedHead) for path in state.originals}
    return {path: head.copies[name] for path, head in heads.items() if head and name in head.copies}


def unties(model: nn.Module, state: Attachment, merged: Merged, copies: dict[str, nn.Module]) -> bool:
    r"""Whether a weight that is merged is also used where nothing is merged, or one of which a copy takes the place is
    used elsewhere: its two sides differ from then on.
    """
    own = {(path, key): state.originals[path]._parameters.get(key) for path in merged for key in merged[path]}
    users = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    if any(users[id(getattr(state.originals[path], "weight", None))] > 1 for path in copies):
        return True
    users -= Counter(map(id, own.values()))
    return any(key == "weight" and users[id(weight)] > 0 for (_, key), weight in own.items())

r"""Merging: what an adapter learned goes into the base weights, the extra modules go, and `unmerge` undoes it."""

from __future__ import annotations

from collections import Counter

from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.methods.mechanism.attachment import activate, attachment_of
from coursekit.methods.mechanism.heads import SwitchedHead
from coursekit.methods.mechanism.modules import at, in_codes, replace


def merge(model: nn.Module, folded: dict[str, dict[str, Tensor]], name: str, undo: bool) -> nn.Module:
    r"""Put folded tensors (path of a wrapped module -> "weight", "bias" -> new value) into the base, wrappers out.

    A tied weight that is folded on one side only is tied no more, and the config says so; one tensor for both sides
    stays one.
    Codes cannot take the sum: in the place of a layer in 4 bits comes a dense one.
    With `undo` the old tensors are kept for `unmerge`; without it the model is an ordinary model from here on.
    """
    merged_once(model)
    state = attachment_of(model)
    state.merged = {"tensors": {}, "modules": {}, "tied": getattr(model.config, "tie_word_embeddings", None)}
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    owners -= Counter(id(state.originals[p]._parameters.get(key)) for p in folded for key in folded[p])
    made: dict[int, nn.Parameter] = {}
    for path, original in state.originals.items():
        wrapper = at(model, path)
        state.merged["modules"][path] = wrapper
        if in_codes(original) and "weight" in folded.get(path, ()):
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
    state = attachment_of(model)
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


def merged_once(model: nn.Module) -> None:
    if attachment_of(model).merged is not None:
        raise CourseError("an adapter is merged already; call unmerge(model) first")

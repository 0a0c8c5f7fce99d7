r"""Taking adapters off again: one of several, or all of them, and the base model is back bit for bit."""

from __future__ import annotations

from torch import nn

from coursekit.errors import unknown
from coursekit.methods.mechanism.attachment import activate, attachment_of, unmerged
from coursekit.methods.mechanism.merge import unmerge
from coursekit.methods.mechanism.modules import replace
from coursekit.methods.mechanism.switch import Switched


def remove(model: nn.Module, name: str) -> None:
    r"""Take one named adapter off; the others stay. The last one that goes restores the base model."""
    state = attachment_of(model)
    if name not in state.methods:
        raise unknown("adapter", name, state.methods)
    if len(state.methods) == 1:
        detach(model)
        return
    unmerged(model)  # what is folded in is not among the modules, so nothing could be taken off it
    for module in model.modules():
        if isinstance(module, Switched):
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

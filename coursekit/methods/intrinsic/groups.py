r"""The tensors that move, in groups: those of each block, then all others of the body."""

from __future__ import annotations

from torch import nn

from coursekit.methods.mechanism.anatomy import anatomy
from coursekit.methods.mechanism.modules import output_layer, standing
from coursekit.methods.mechanism.switch import Switched

#: Tensors of one group, as (module of the bare model, name in it).
Group = list[tuple[nn.Module, str]]


def groups_of(model: nn.Module, parts: str) -> list[Group]:
    r"""parts: "all", or "blocks": without the last group. A tied tensor counts once, where the body has it first."""
    shapes, seen = anatomy(model), set()
    blocks: list[Group] = [[] for _ in shapes.blocks]
    rest: Group = []
    output = output_layer(model)  # T5's lies in what transformers calls its body
    for path, module in frozen_modules(model.base_model).items():
        if module is output:
            continue
        inside = shapes.inside(path)
        group = rest if inside is None else blocks[inside]
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                group.append((module, key))
    return [*blocks, rest] if parts == "all" else blocks


def size(group: Group) -> int:
    r"""How many weights a group has."""
    return sum(module._parameters[key].numel() for module, key in group)


def frozen_modules(module: nn.Module) -> dict[str, nn.Module]:
    r"""Every module of the bare model that has parameters of its own, by path."""
    return {p: m for p, m in standing(module) if m._parameters and not isinstance(m, Switched)}

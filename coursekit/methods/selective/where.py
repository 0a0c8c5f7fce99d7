r"""Where in the blocks of a model an adapter's parameters lie, by kind of tensor."""

from __future__ import annotations

from torch import nn

from coursekit.architecture import describe
from coursekit.methods.mechanism.attachment import attachment_of
from coursekit.methods.mechanism.modules import AdapterWrapper, body_prefix, named_base_modules
from coursekit.methods.selective.part_layer import parts_of


def trained_by_kind(model: nn.Module, name: str | None = None) -> dict[str, tuple[int, int]]:
    r"""Kind of tensor -> (parameters that train under adapter `name`, parameters), over all blocks.

    The kinds are the weight matrices of a block by their names, and then "norms", their weights, and "biases", all.
    For selective methods: what other methods add lies in no tensor of the model.
    """
    name = name or attachment_of(model).switch.active or "default"
    arch, parts = describe(model.config), parts_of(model, name)
    blocks = f"{body_prefix(model)}{arch.block}."
    matrices = [m.name for m in arch.matrices if m.per_layer]
    found = {kind: [0, 0] for kind in (*matrices, "norms", "biases")}
    for path, module in named_base_modules(model):
        if not path.startswith(blocks) or isinstance(module, AdapterWrapper):
            continue
        for key, parameter in module.named_parameters(recurse=False):
            own = path.removeprefix(blocks).partition(".")[2]
            kind = "biases" if key == "bias" else own if own in found else "norms"
            part = parts.get(path, {}).get(key)
            found[kind][0] += part.values.numel() if part is not None else 0
            found[kind][1] += parameter.numel()
    return {kind: (trained, size) for kind, (trained, size) in found.items()}

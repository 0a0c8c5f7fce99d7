r"""Where in a block a method acts, and how: read off the paths of its trainable parameters in a BERT-like encoder."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from coursekit.methods.mechanism.method import Method

#: A part of a parameter's path -> where that is, in the order in which a token passes; of several, the first counts.
PLACES = {
    "soft_prompt": "before\nthe text",
    "self.prefixes": "before keys\nand values",
    ".query.": "query",
    ".key.": "key",
    ".value.": "value",
    "attention.output.dense": "attention's\noutput",
    "houlsby_attention": "after the\nattention",
    "compacter_attention": "after the\nattention",
    "LayerNorm": "norms",
    "intermediate": "FFN,\n1st matrix",
    "output.dense": "FFN,\n2nd matrix",
    "layer.0": "around\nthe FFN",
}
#: The same for how; "" fits all.
WAYS = {
    "branches.default.A": "adds beside",
    "branches.default.B": "adds beside",
    "parallel": "adds beside",
    "houlsby": "adds behind",
    "pfeiffer": "adds behind",
    "compacter": "adds behind",
    "branches.default.l": "multiplies",
    "soft_prompt": "puts tokens before",
    "prefixes": "puts tokens before",
    "": "trains what is there",
}


def paths(model: nn.Module, method: Method) -> list[str]:
    r"""Paths of what `method` trains before the text and in the first block. The model stays as it was."""
    method.attach(model)
    found = [path for path, parameter in model.named_parameters() if parameter.requires_grad]
    method.detach(model)
    return [path for path in found if "layer.0." in path or "soft_prompt" in path]


def places(model: nn.Module, method: Method) -> dict[str, str]:
    r"""Place -> how `method` acts there, both among the values of `PLACES` and `WAYS`; gates stand with their parts."""
    found = [path for path in paths(model, method) if ".gate" not in path]
    return {_first(PLACES, path): _first(WAYS, path) for path in found}


def _first(signs: Mapping[str, str], path: str) -> str:
    return next(meaning for sign, meaning in signs.items() if sign in path)

r"""Names of a bottleneck's tensors in the library, and here.

bert.encoder.layer.0.output.adapters.NAME.adapter_down.0.weight      the library's
bert.encoder.layer.0.pfeiffer.down.weight                            here
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn

from coursekit.adapterhub.folder import WEIGHTS, read_tensors
from coursekit.architecture import describe
from coursekit.errors import CourseError
from coursekit.methods import AdapterDrop
from coursekit.methods.adapters.adapter import Adapter
from coursekit.methods.adapters.places import blocks
from coursekit.methods.mechanism.modules import body_prefix

#: "...layer.3.attention.output.adapters.NAME.adapter_down.0.weight": block, place, part. Old files write
#: `attention_text_task_adapters` and the like for `adapters`.
_KEY = re.compile(
    r"\.(?P<block>\d+)\.(?P<place>attention\.output|output|attention_adapters|output_adapters)\."
    r"(?:adapters|(?:attention|layer)_text_(?:task|lang)_adapters)\.[^.]+\."
    r"(?P<part>adapter_down\.0|adapter_up|scaling)(?P<kind>\.weight|\.bias|\.W_left|\.W_right|\.b|)$"
)
_RULE = re.compile(r"\bshared_parameters\.[^.]+\.phm_rule$")
_PARTS = {"adapter_down.0": "down", "adapter_up": "up", "scaling": "scaling"}
#: A layer of Kronecker products computes $xW$ there and $Wx$ here, so what is left there is right here.
_VECTORS = {".W_left": ".t", ".W_right": ".s", ".b": ".bias"}


def _their_place(site: str, family: str) -> str:
    attention = site.endswith("attention")
    if family in ("bert", "roberta"):
        return "attention.output" if attention else "output"
    return "attention_adapters" if attention else "output_adapters"


def theirs(key: str, value: Tensor, model: nn.Module, name: str) -> tuple[str, Tensor]:
    r"""`bert.encoder.layer.0.pfeiffer.down.weight` and its value as the library has them."""
    match = re.fullmatch(r"(.+\.\d+)\.(\w+)\.(down|up|scaling)((?:\.weight|\.bias|\.s|\.t)?)", key)
    if match is None:
        return f"{key.removesuffix('compacter.A')}shared_parameters.{name}.phm_rule", value.mT
    block, site, part, kind = match.groups()
    if site.startswith("compacter"):
        # (n, d / n) here, (n, d / n, 1) and (n, 1, d / n) there
        value = value.unsqueeze({".t": -1, ".s": 1}[kind]) if kind != ".bias" else value
        kind = {ours: library for library, ours in _VECTORS.items()}[kind]
    library = {ours: name for name, ours in _PARTS.items()}[part]
    place = _their_place(site, describe(model.config).family)
    return f"{block}.{place}.adapters.{name}.{library}{kind}", value


def ours(method: Adapter | AdapterDrop, model: nn.Module, folder: str | Path) -> dict[str, Tensor]:
    r"""The adapter's tensors under the keys that they have in `model`."""
    adapter = method.adapter if isinstance(method, AdapterDrop) else method
    paths, found = list(blocks(model)), {}
    for key, value in read_tensors(Path(folder), WEIGHTS).items():
        if _RULE.search(key):
            found[f"{body_prefix(model)}compacter.A"] = _of_three(value, key, folder).mT
            continue
        match = _KEY.search(key)
        if match is None:
            raise CourseError(f"the adapter in {folder} has {key}, which no method here has")
        number, after_attention = int(match["block"]), match["place"].startswith("attention")
        site = next(s for s in adapter.sites if len(adapter.sites) == 1 or s.endswith("attention") == after_attention)
        # Of a deeper model: a key that nobody has, and so an error further on.
        path = paths[number] if number < len(paths) else f"block {number}"
        kind = _VECTORS.get(match["kind"], match["kind"])
        if kind in (".t", ".s"):
            value = _of_three(value, key, folder).squeeze({".t": -1, ".s": 1}[kind])
        found[f"{path}.{site}.{_PARTS[match['part']]}{kind}"] = value
    return found


def _of_three(value: Tensor, key: str, folder: str | Path) -> Tensor:
    if value.dim() != 3:
        raise CourseError(f"the adapter in {folder} is damaged: {key} has {value.dim()} dimensions, not 3")
    return value

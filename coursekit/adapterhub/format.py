r"""AdapterHub's exchange format: the folder that `save_adapter` of the `adapters` library writes.

A folder has `adapter_config.json`, whose entry "config" names the library's settings of a bottleneck, and
`pytorch_adapter.bin` or `adapter.safetensors`; the task head stands beside it in `pytorch_model_head.bin` or
`model_head.safetensors`. The library reads the first of each pair unless it is told otherwise, so `save` writes
that. Checked against `adapters` 1.3.0: `tests/fixtures/make_adapters.py`.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coursekit import interop
from coursekit.architecture import describe
from coursekit.errors import CourseError, unknown
from coursekit.methods.adapters import (
    AdapterDrop,
    Compacter,
    CompacterPlus,
    HoulsbyAdapter,
    ParallelAdapter,
    PfeifferAdapter,
)
from coursekit.methods.adapters.adapter import Adapter
from coursekit.methods.adapters.places import blocks
from coursekit.methods.mechanism.attachment import attached
from coursekit.methods.mechanism.modules import body_prefix, head_names
from coursekit.methods.mechanism.undo import undone_after_an_error

CONFIG, HEAD_CONFIG = "adapter_config.json", "head_config.json"
WEIGHTS = ("pytorch_adapter.bin", "adapter.safetensors")
HEAD_WEIGHTS = ("pytorch_model_head.bin", "model_head.safetensors")
VERSION = "adapters.1.3.0"

_HOULSBY = dict(mh_adapter=True, output_adapter=True, original_ln_before=False, is_parallel=False)
_PFEIFFER = dict(mh_adapter=False, output_adapter=True, original_ln_before=True, is_parallel=False)
_PARALLEL = dict(mh_adapter=False, output_adapter=True, original_ln_before=False, is_parallel=True)
#: The settings by which the library tells its forms apart, four for the place, and the method here that each is.
FORMS: dict[type[Adapter], dict[str, bool]] = {
    HoulsbyAdapter: _HOULSBY | dict(phm_layer=False),
    PfeifferAdapter: _PFEIFFER | dict(phm_layer=False),
    ParallelAdapter: _PARALLEL | dict(phm_layer=False),
    Compacter: _HOULSBY | dict(phm_layer=True),
    CompacterPlus: _PFEIFFER | dict(phm_layer=True),
}
#: What the library can do around a bottleneck and the methods here do not: the values that mean "not used".
PLAIN: dict[str, Any] = dict(
    original_ln_after=True, residual_before_ln=True, adapter_residual_before_ln=False, ln_before=False, ln_after=False,
    use_gating=False, inv_adapter=None, cross_adapter=False, dropout=0.0, stochastic_depth=0.0,
)  # fmt: skip
#: The same for layers of Kronecker products.
PLAIN_PHM: dict[str, Any] = dict(
    factorized_phm_W=True, shared_W_phm=False, shared_phm_rule=True, factorized_phm_rule=False, learn_phm=True,
    phm_rank=1, phm_bias=True,
)  # fmt: skip
#: Old files name a form instead of spelling it out.
NAMED: dict[str, tuple[type[Adapter], str]] = {
    "houlsby": (HoulsbyAdapter, "swish"),
    "double_seq_bn": (HoulsbyAdapter, "swish"),
    "pfeiffer": (PfeifferAdapter, "relu"),
    "seq_bn": (PfeifferAdapter, "relu"),
}
#: The library's names of activations -> ours.
ACTIVATIONS = {name: name for name in ("relu", "gelu", "swish", "tanh")} | {
    "silu": "swish",
    "linear": "identity",
}

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


def read_method(folder: str | Path) -> Adapter | AdapterDrop:
    r"""The method that the adapter in `folder` is, with its hyperparameters.

    Raises CourseError for a folder of something else, and for settings that no method here has.
    """
    config = read_config(Path(folder))
    r = width(folder)
    if isinstance(form := config["config"], str):
        if form not in NAMED:
            raise unknown("adapter configuration", form, NAMED)
        kind, activation = NAMED[form]
        return kind(r=r, activation=activation)
    kind = _form(form, folder)
    activation = form.get("non_linearity")
    if "version" not in config:  # written before gelu and its approximation changed their names
        activation = {"gelu": "gelu_new", "gelu_orig": "gelu"}.get(activation, activation)
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    settings: dict[str, Any] = {"r": r, "activation": ACTIVATIONS[activation]}
    if kind is ParallelAdapter:
        settings["scaling"] = form.get("scaling", 1.0)
    if issubclass(kind, Compacter):
        settings["n"] = form.get("phm_dim", 4)
    left_out = sorted(form.get("leave_out") or [])
    if left_out != list(range(len(left_out))):
        raise CourseError(
            f"the adapter in {folder} leaves out blocks {left_out}: only the first ones can be left out here"
        )
    method = kind(**settings)
    return AdapterDrop(method, n=len(left_out)) if left_out else method


def load(model: nn.Module, folder: str | Path, name: str = "default", head: bool = True) -> nn.Module:
    r"""Attach the adapter in `folder` to `model` under `name`, and the classifier beside it if there is one.

    `head=False` leaves a classifier in the folder alone; the adapter then has a copy of the model's own. The output
    layer of a language model, which the library writes as well, is the base's and stays that.
    Raises CourseError, and leaves `model` as it was, where the adapter or the head is of another model.
    """
    method = read_method(folder)
    check_model_type(model, folder)
    found = _ours(method, model, folder)
    heads = tuple(f"{name}." for name in head_names(model))
    theirs = read_tensors(Path(folder), HEAD_WEIGHTS, needed=False) if heads and head else {}
    with undone_after_an_error(model, name):
        method.attach(model, name)
        own = method._learned(model, name)
        if not theirs:
            own = {key: value for key, value in own.items() if not (heads and key.startswith(heads))}
        interop.same_tensors(own, found | theirs, folder)
    with torch.no_grad():
        for key, value in own.items():
            value.copy_((found | theirs)[key])
    return model


def save(model: nn.Module, folder: str | Path, name: str | None = None) -> Path:
    r"""Write adapter `name` of `model` (None: the active one) so that the library's `load_adapter(folder)` reads it.

    Raises CourseError for a method that the library does not have.
    """
    there = attached(model)
    name = name or _active(model) or next(iter(there), None)
    if not there:
        raise CourseError("no adapter is attached to this model; call method.attach(model) first")
    if name not in there:
        raise unknown("adapter", name, there)
    method = there[name]
    adapter = method.adapter if isinstance(method, AdapterDrop) else method
    if type(adapter) not in FORMS:
        raise CourseError(
            f"{type(adapter).__name__} is not written in AdapterHub's form: use the method's own save(), or one of "
            f"{', '.join(kind.__name__ for kind in FORMS)}"
        )
    if adapter.train_norms:
        raise CourseError(
            "AdapterHub has no place for trained norms: use the method's own save(), or train_norms=False"
        )
    arch = describe(model.config)
    common = {
        "hidden_size": arch.d_model,
        "model_class": type(model).__name__,
        "model_name": getattr(model.config, "_name_or_path", "") or "",
        "model_type": model.config.model_type,
        "version": VERSION,
    }
    dropped = method.first(model.config) if isinstance(method, AdapterDrop) else 0
    config = common | {"name": name, "config": _library_config(adapter, arch.d_model, dropped)}
    learned = method._learned(model, name)
    heads = tuple(f"{head}." for head in head_names(model))
    head = {key: value for key, value in learned.items() if key.startswith(heads)} if heads else {}
    theirs = dict(_theirs(key, value, model, name) for key, value in learned.items() if key not in head)
    files: dict[str, Any] = {CONFIG: config, WEIGHTS[0]: theirs}
    if head:
        labels = {label: int(i) for i, label in model.config.id2label.items()}
        head_config = {"config": None, "name": None, "num_labels": len(labels), "label2id": labels}
        files |= {HEAD_CONFIG: common | head_config, HEAD_WEIGHTS[0]: head}
    return _write(Path(folder), files)


def _form(form: dict[str, Any], folder: str | Path) -> type[Adapter]:
    if form.get("architecture") is not None:
        raise CourseError(
            f"the adapter in {folder} is a {form['architecture']}, not a bottleneck: "
            + ("adapterhub_unions.load reads MAM and UniPELT" if form["architecture"] == "union"
               else "read it with the library")
        )  # fmt: skip
    check_plain(form, folder)
    asked = {key: form.get(key, False) for key in FORMS[HoulsbyAdapter]}
    kind = next((kind for kind, wanted in FORMS.items() if wanted == asked), None)
    if kind is None:
        raise CourseError(
            f"the adapter in {folder} sits where no method here puts one: "
            + ", ".join(f"{key}={value}" for key, value in asked.items())
        )
    if kind is not ParallelAdapter and form.get("scaling", 1.0) != 1.0:
        raise CourseError(
            f"the adapter in {folder} has scaling={form['scaling']!r}: only ParallelAdapter scales"
        )
    return kind


def width(folder: str | Path) -> int:
    r"""r of the bottlenecks in `folder`. Raises CourseError where there is none, or not one for all."""
    first = ("adapter_down.0.weight", "adapter_down.0.b")
    widths = {len(value) for key, value in read_tensors(Path(folder), WEIGHTS).items() if key.endswith(first)}
    if len(widths) != 1:
        raise CourseError(
            f"the bottlenecks in {folder} are {sorted(widths) or 'none'} wide: this course has one width for all"
        )
    return widths.pop()


def check_plain(form: dict[str, Any], folder: str | Path, but: tuple[str, ...] = ()) -> None:
    r"""Raise CourseError where a bottleneck's settings ask for what no method here does. but: keys to leave out."""
    for key, plain in (PLAIN | (PLAIN_PHM if form.get("phm_layer") else {})).items():
        unused = key in but or key == "residual_before_ln" and not form.get("original_ln_before")
        if form.get(key, plain) != plain and not unused:
            raise CourseError(f"the adapter in {folder} has {key}={form[key]!r}, which no method here has")


def check_model_type(model: nn.Module, folder: str | Path) -> None:
    r"""Raise CourseError where the adapter in `folder` was trained on a model of another type."""
    own_type = model.config.model_type
    if (made_for := read_config(Path(folder)).get("model_type", own_type)) != own_type:
        raise CourseError(
            f"the adapter in {folder} was trained on a {made_for} model, this one is {own_type}"
        )


def _library_config(adapter: Adapter, d: int, dropped: int) -> dict[str, Any]:
    theirs = {ours: name for name, ours in reversed(ACTIVATIONS.items())}
    of_products = isinstance(adapter, Compacter)
    r = adapter.width(d) if of_products else adapter.r
    return {
        **PLAIN,
        **(PLAIN_PHM | {"phm_dim": adapter.n} if of_products else {}),
        **FORMS[type(adapter)],
        # The library computes r = int(d // reduction_factor); the half keeps it clear of rounding.
        "reduction_factor": d // r if d % r == 0 else d / (r + 0.5),
        "non_linearity": theirs[adapter.activation],
        "init_weights": "bert",
        "scaling": getattr(adapter, "scaling", 1.0),
        "leave_out": list(range(dropped)),
    }


def _their_place(site: str, family: str) -> str:
    attention = site.endswith("attention")
    if family in ("bert", "roberta"):
        return "attention.output" if attention else "output"
    return "attention_adapters" if attention else "output_adapters"


def _theirs(key: str, value: Tensor, model: nn.Module, name: str) -> tuple[str, Tensor]:
    r"""`bert.encoder.layer.0.pfeiffer.down.weight` and its value as the library has them."""
    match = re.fullmatch(r"(.+\.\d+)\.(\w+)\.(down|up|scaling)((?:\.weight|\.bias|\.s|\.t)?)", key)
    if match is None:
        return f"{key.removesuffix('compacter.A')}shared_parameters.{name}.phm_rule", value.mT
    block, site, part, kind = match.groups()
    if site.startswith("compacter"):
        # (n, d / n) here, (n, d / n, 1) and (n, 1, d / n) there
        value = value.unsqueeze({".t": -1, ".s": 1}[kind]) if kind != ".bias" else value
        kind = {ours: theirs for theirs, ours in _VECTORS.items()}[kind]
    theirs = {ours: name for name, ours in _PARTS.items()}[part]
    place = _their_place(site, describe(model.config).family)
    return f"{block}.{place}.adapters.{name}.{theirs}{kind}", value


def _ours(method: Adapter | AdapterDrop, model: nn.Module, folder: str | Path) -> dict[str, Tensor]:
    r"""The adapter's tensors under the keys that they have in `model`."""
    adapter = method.adapter if isinstance(method, AdapterDrop) else method
    paths, found = list(blocks(model)), {}
    for key, value in read_tensors(Path(folder), WEIGHTS).items():
        if _RULE.search(key):
            found[f"{body_prefix(model)}compacter.A"] = value.mT
            continue
        match = _KEY.search(key)
        if match is None:
            raise CourseError(f"the adapter in {folder} has {key}, which no method here has")
        number, after_attention = int(match["block"]), match["place"].startswith("attention")
        site = next(
            s for s in adapter.sites if len(adapter.sites) == 1 or s.endswith("attention") == after_attention
        )
        path = (
            paths[number] if number < len(paths) else f"block {number}"
        )  # of a deeper model: an error further on
        kind = _VECTORS.get(match["kind"], match["kind"])
        value = value.squeeze({".t": -1, ".s": 1}[kind]) if kind in (".t", ".s") else value
        found[f"{path}.{site}.{_PARTS[match['part']]}{kind}"] = value
    return found


def _active(model: nn.Module) -> str | None:
    state = getattr(model, "_coursekit", None)
    return state.switch.active if state else None


def read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise CourseError(f"{folder} is not an adapter of AdapterHub: it has no {CONFIG}")
    try:
        config = json.loads((folder / CONFIG).read_text())
    except json.JSONDecodeError as error:
        raise CourseError(f"{folder / CONFIG} is damaged ({error}); fetch or save it again") from error
    if "config" not in config:
        raise CourseError(
            f"{folder} is not an adapter of AdapterHub: its {CONFIG} has no entry 'config'; a checkpoint of this "
            "course or of peft loads with the method's own load()"
        )
    return config


def read_tensors(folder: Path, names: tuple[str, str], needed: bool = True) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        if needed:
            raise CourseError(
                f"{folder} is not an adapter of AdapterHub: it has neither {' nor '.join(names)}"
            )
        return {}
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)  # never a pickle that can run code
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CourseError(f"{path} is damaged or more than tensors ({reason}); fetch it again") from error


def _write(folder: Path, files: dict[str, Any]) -> Path:
    r"""All `files` or none: tensors in ".bin", the rest as JSON."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as part:
            for name, content in files.items():
                if name.endswith(".bin"):
                    plain = {key: value.detach().cpu().contiguous() for key, value in content.items()}
                    torch.save(plain, Path(part, name))
                else:
                    Path(part, name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
            for name in files:
                os.replace(Path(part, name), folder / name)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as either
        raise CourseError(
            f"cannot write an adapter to {folder}: {error}; what was there is unchanged"
        ) from error
    return folder

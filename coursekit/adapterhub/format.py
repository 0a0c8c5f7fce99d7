r"""AdapterHub's exchange format: the folder that `save_adapter` of the `adapters` library writes.

A folder has `adapter_config.json`, whose entry "config" names the library's settings of a bottleneck, and
`pytorch_adapter.bin` or `adapter.safetensors`; the task head stands beside it in `pytorch_model_head.bin` or
`model_head.safetensors`. The library reads the first of each pair unless it is told otherwise, so `save` writes
that. Checked against `adapters` 1.3.0: `tests/fixtures/make_adapters.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from coursekit.adapterhub import keys, low_rank, prefix, unions
from coursekit.adapterhub.folder import CONFIG, HEAD_CONFIG, HEAD_WEIGHTS, WEIGHTS, read_config, read_tensors, write
from coursekit.adapterhub.forms import ACTIVATIONS, FORMS, NAMED, form_of, library_config, width
from coursekit.architecture import describe
from coursekit.errors import CourseError, one_of
from coursekit.methods import AdapterDrop, Compacter, ParallelAdapter
from coursekit.methods.adapters.adapter import Adapter
from coursekit.methods.mechanism.attachment import attached, name_of
from coursekit.methods.mechanism.merge import undone_after_an_error
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import head_names

VERSION = "adapters.1.3.0"
#: Of what a folder says it holds, what is read.
READ = "bottlenecks, LoRA, (IA)³, prefix tuning, prompt tuning, MAM and UniPELT"


def _bottleneck(config: dict[str, Any], folder: str | Path) -> Adapter | AdapterDrop:
    r = width(folder)
    if isinstance(form := config["config"], str):
        kind, activation = NAMED[one_of("adapter configuration", form, NAMED)]
        return kind(r=r, activation=activation)
    kind = form_of(form, folder)
    activation = form.get("non_linearity")
    if "version" not in config:  # written before gelu and its approximation changed their names
        activation = {"gelu": "gelu_new", "gelu_orig": "gelu"}.get(str(activation), activation)
    settings: dict[str, Any] = {"r": r, "activation": ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]}
    if kind is ParallelAdapter:
        settings["scaling"] = form.get("scaling", 1.0)
    if issubclass(kind, Compacter):
        settings["n"] = form.get("phm_dim", 4)
    left_out = form.get("leave_out") or []
    if not isinstance(left_out, list) or any(n not in left_out for n in range(len(left_out))):
        raise CourseError(
            f"the adapter in {folder} leaves out blocks {left_out}: only the first ones can be left out here"
        )
    method = kind(**settings)
    return AdapterDrop(method, n=len(left_out)) if left_out else method


def load(model: nn.Module, folder: str | Path, name: str = "default") -> nn.Module:
    r"""Attach the adapter in `folder` to `model` under `name`, and the classifier beside it if there is one.

    The output layer of a language model, which the library writes as well, is the base's and stays that.
    Raises CourseError, and leaves `model` as it was, where the adapter or the head is of another model, and for what
    no method here does.
    """
    folder = Path(folder)
    config, own_type = read_config(folder), model.config.model_type
    if (made_for := config.get("model_type", own_type)) != own_type:
        raise CourseError(f"the adapter in {folder} was trained on a {made_for} model, this one is {own_type}")
    form = config["config"]
    kind = "bottleneck" if isinstance(form, str) else str(form.get("architecture") or "bottleneck")
    method: Method
    forms = {"lora": low_rank.read, "prefix_tuning": prefix.read, "prompt_tuning": prefix.read_prompt}
    if kind in forms:
        method, found = forms[kind](model, folder, form)
    elif kind == "union":
        method = unions.read_method(form, folder)
        found = unions.ours(method, model, folder)
    elif kind == "bottleneck":
        method = _bottleneck(config, folder)
        found = keys.ours(method, model, folder)
    else:
        raise CourseError(f"the adapter in {folder} is {kind}, which no method here is; read are {READ}")
    heads = tuple(f"{name}." for name in head_names(model))
    theirs = read_tensors(folder, HEAD_WEIGHTS, needed=False) if heads else {}
    with undone_after_an_error(model, name):
        method.attach(model, name)
        if not theirs:
            own = method._learned(model, name)
            theirs = {key: value for key, value in own.items() if heads and key.startswith(heads)}
        method._load(model, name, found | theirs, folder)
    return model


def save(model: nn.Module, folder: str | Path, name: str | None = None) -> Path:
    r"""Write adapter `name` of `model` (None: the active one) so that the library's `load_adapter(folder)` reads it.

    Raises CourseError for a method that the library does not have.
    """
    name = name_of(model, name)
    method = attached(model)[name]
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
    config = common | {"name": name, "config": library_config(adapter, arch.d_model, dropped)}
    learned = method._learned(model, name)
    heads = tuple(f"{head}." for head in head_names(model))
    head = {key: value for key, value in learned.items() if key.startswith(heads)} if heads else {}
    theirs = dict(keys.theirs(key, value, model, name) for key, value in learned.items() if key not in head)
    files: dict[str, Any] = {CONFIG: config, WEIGHTS[0]: theirs}
    if head:
        labels = {label: int(i) for i, label in model.config.id2label.items()}
        head_config = {"config": None, "name": None, "num_labels": len(labels), "label2id": labels}
        files |= {HEAD_CONFIG: common | head_config, HEAD_WEIGHTS[0]: head}
    return write(Path(folder), files)

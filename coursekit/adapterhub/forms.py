r"""The forms of a bottleneck that the `adapters` library knows, by its settings, and the methods here that they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coursekit.adapterhub.folder import WEIGHTS, read_tensors
from coursekit.errors import CourseError
from coursekit.methods import Compacter, CompacterPlus, HoulsbyAdapter, ParallelAdapter, PfeifferAdapter
from coursekit.methods.adapters.adapter import Adapter

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
ACTIVATIONS = {name: name for name in ("relu", "gelu", "swish", "tanh")} | {"silu": "swish", "linear": "identity"}


def form_of(form: dict[str, Any], folder: str | Path) -> type[Adapter]:
    check_plain(form, folder)
    asked = {key: form.get(key, False) for key in FORMS[HoulsbyAdapter]}
    kind = next((kind for kind, wanted in FORMS.items() if wanted == asked), None)
    if kind is None:
        raise CourseError(
            f"the adapter in {folder} sits where no method here puts one: "
            + ", ".join(f"{key}={value}" for key, value in asked.items())
        )
    if kind is not ParallelAdapter and form.get("scaling", 1.0) != 1.0:
        raise CourseError(f"the adapter in {folder} has scaling={form['scaling']!r}: only ParallelAdapter scales")
    return kind


def check_plain(form: dict[str, Any], folder: str | Path, but: tuple[str, ...] = ()) -> None:
    r"""Raise CourseError where a bottleneck's settings ask for what no method here does. but: keys to leave out."""
    for key, plain in (PLAIN | (PLAIN_PHM if form.get("phm_layer") else {})).items():
        unused = key in but or key == "residual_before_ln" and not form.get("original_ln_before")
        if form.get(key, plain) != plain and not unused:
            raise CourseError(f"the adapter in {folder} has {key}={form[key]!r}, which no method here has")


def library_config(adapter: Adapter, d: int, dropped: int) -> dict[str, Any]:
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


def width(folder: str | Path) -> int:
    r"""r of the bottlenecks in `folder`. Raises CourseError where there is none, or not one for all."""
    first = ("adapter_down.0.weight", "adapter_down.0.b")
    tensors = read_tensors(Path(folder), WEIGHTS)
    widths = {len(value) for key, value in tensors.items() if key.endswith(first) and value.dim()}
    if len(widths) != 1:
        raise CourseError(
            f"the bottlenecks in {folder} are {sorted(widths) or 'none'} wide: this course has one width for all"
        )
    return widths.pop()

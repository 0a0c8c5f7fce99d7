r"""Several methods under one name: `Hybrid(LoRA(r=8), BitFit())`, say, reparameterised and selective at once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from coursekit import interop
from coursekit.errors import CourseError
from coursekit.methods.full import FullFineTuning
from coursekit.methods.hybrid.beside_lora import ADAPTER, ROWS, LayerBiases, TokenRows, rows_in, same_rows
from coursekit.methods.hybrid.composite import Composite, twice
from coursekit.methods.lora import LoRA
from coursekit.methods.lora_config import PARTS, adapted, more_than_lora
from coursekit.methods.mechanism.attachment import unmerged
from coursekit.methods.mechanism.checkpoint import other_settings
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import HEADS, unwrap
from coursekit.methods.mechanism.names import inside
from coursekit.methods.selective.bitfit import BitFit


@dataclass(frozen=True, init=False, repr=False)
class Hybrid(Composite):
    r"""Methods that touch different places of one model, attached, saved and taken off as one.

    parts: in any order. They are attached in the order of their kinds' names, so that one seed gives one start however
    they were given. The nesting of several wrappers around one module is decided by what they do
    there (`AdapterWrapper.order`) and not by who came first.

    LoRA and BitFit together are peft's LoRA with bias="all" and are written as that, and so is what else peft trains
    beside a LoRA (`beside_lora.py`). For others peft has no format: the folder of `save` then holds the parts' configs
    in one list.

    Raises CourseError for fewer than two parts, for a part twice, for a part that takes the whole model (full
    fine-tuning), and, on attaching, before anything is changed, for parts that would change the same tensor or the
    same place, and for one that looks at data when it is attached.
    """

    parts: tuple[Method, ...]
    kind: ClassVar[str] = "HYBRID"

    def __init__(self, *parts: Method):
        flat = [p for part in parts for p in (part.parts if isinstance(part, Hybrid) else [part])]
        for part in flat:
            _check_part(part)
        if len(flat) < 2:
            raise CourseError("a hybrid needs two methods or more, such as Hybrid(LoRA(r=8), BitFit())")
        flat.sort(key=lambda part: part.kind)
        for one, other in pairwise(flat):
            if one.kind == other.kind:
                raise twice(one, other)
        object.__setattr__(self, "parts", tuple(flat))

    def __repr__(self) -> str:
        return f"Hybrid({', '.join(map(repr, self.parts))})"

    def parts_for(self, config: Any) -> tuple[Method, ...]:
        return self.parts

    @property
    def _kinds(self) -> tuple[str, ...]:
        return (self.kind, *(part.kind for part in self.parts))

    @property
    def _title(self) -> str:
        return f"Hybrid of {' and '.join(part._title for part in self.parts)}"

    def _config(self, model: nn.Module) -> dict[str, Any]:
        if not self._lora:
            return interop.common_config(model, self.kind) | {"parts": [p._config(model) for p in self.parts]}
        return self._lora._config(model) | {key: said for key, said in self._beside.items() if said}

    def _check(self, model: nn.Module) -> list[Any]:
        found = super()._check(model)
        for part in self.parts if self._lora else ():
            if isinstance(part, LayerBiases):
                layers = self._lora.places(model).items()
                with_bias = {p for p, m in layers if getattr(unwrap(m), "bias", None) is not None}
                if with_bias != part.layers(model).keys():
                    raise CourseError(
                        "beside a LoRA the biases of the very layers that it adapts train, so that peft can read the "
                        "checkpoint: name the same targets, or take BitFit for all biases"
                    )
        return found

    def _check_kind(self, config: dict[str, Any]) -> None:
        if not (self._lora and _of_peft(config)):
            super()._check_kind(config)

    def _check_config(self, config: dict[str, Any]) -> None:
        if self._lora:
            self._lora._check_config(_lora_alone(config))
            bias, rows = config.get("bias", "none"), config.get("trainable_token_indices")
            if bias != self._beside["bias"]:
                raise other_settings(self, "bias", bias, self._beside["bias"])
            own = self._beside["trainable_token_indices"] or {}
            if bool(rows) != bool(own) or not all(same_rows(name, ids, rows) for name, ids in own.items()):
                raise other_settings(self, "trainable_token_indices", rows, own)
            return
        found = [part["peft_type"] for part in _parts_in(config)]
        if found != [part.kind for part in self.parts]:
            raise CourseError(
                f"this checkpoint combines {' and '.join(map(str, found))}, the method here is a {self._title}: use "
                "Hybrid.from_checkpoint(folder)"
            )
        for part, its in zip(self.parts, _parts_in(config), strict=True):
            part._check_config(its)

    # LoRA and what peft trains beside it, in peft's format ----------------------------------------------------------

    @property
    def _lora(self) -> LoRA | None:
        r"""The LoRA of this hybrid if all else is what peft trains beside one, BitFit with all biases for example."""
        loras = [part for part in self.parts if type(part) is LoRA]
        others = (part for part in self.parts if part not in loras)
        fits = all(part == BitFit() or isinstance(part, LayerBiases | TokenRows) for part in others)
        return loras[0] if loras and fits else None

    @property
    def _beside(self) -> dict[str, Any]:
        r"""Entries of peft's config for the parts beside the LoRA."""
        rows = (part.rows for part in self.parts if isinstance(part, TokenRows))
        kinds = {BitFit: "all", LayerBiases: "lora_only"}
        biases = (kinds[type(part)] for part in self.parts if type(part) in kinds)
        return {"bias": next(biases, "none"), "trainable_token_indices": next(rows, None)}

    def save(self, model: nn.Module, folder: str | Path, name: str | None = None) -> Path:
        r"""Write what was trained (never the base) to `folder`."""
        name = self._named(model, name)
        method: Any = unmerged(model).methods[name]
        if not method._lora:
            return super().save(model, folder, name)
        # peft's wrapper has the layer as its part, so the layer's bias has another name there.
        moved = {f"{path}.bias": f"{path}.base_layer.bias" for path, _ in method._lora.branches(model, name)}
        tensors = {moved.get(key, key): value for key, value in method._learned(model, name).items()}
        return interop.write(folder, method._config(model), tensors)

    def _key(self, part: Method, key: str) -> str:
        if not self._lora:
            return super()._key(part, key)
        return key.replace(ROWS, ADAPTER + ROWS) if isinstance(part, TokenRows) else key

    def _share(self, part: Method, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self._lora:
            return super()._share(part, tensors)
        if part is self._lora:
            return {key: value for key, value in tensors.items() if key.endswith(PARTS)}
        if isinstance(part, TokenRows):
            rows = {key: value for key, value in tensors.items() if key.endswith(ROWS)}
            return {key.replace(ADAPTER, ""): value for key, value in rows.items()}
        heads = (*HEADS, *self._lora.modules_to_save)
        return {key: value for key, value in tensors.items() if _is_bias(key) and not inside(key, heads)}

    # ------------------------------------------------------------------------------------------------------------

    @classmethod
    def restored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Hybrid:
        from coursekit.methods.registry import restored

        if _of_peft(config):
            return cls(*_parts_of_peft(config, tensors))
        interop.same_method(cls.kind, config)
        parts = []
        for its in _parts_in(config):
            start = f"{its['peft_type']}."
            own = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
            # What trains whole is kept beside the parts, and its part looks for it.
            whole = its.get("modules_to_save") or ()
            own |= {key: value for key, value in tensors.items() if inside(key, whole)}
            parts.append(restored(its, own))  # each method reads its own, some from the tensors as well
        return cls(*parts)


def _parts_in(config: dict[str, Any]) -> list[dict[str, Any]]:
    r"""The parts' configs in that of a hybrid. Raises CourseError where they are none, or hybrids themselves."""
    parts = config["parts"]
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise CourseError(f"the {interop.CONFIG} of this checkpoint is damaged: parts must list the parts' settings")
    if any(part["peft_type"] == Hybrid.kind for part in parts):
        raise CourseError(f"the {interop.CONFIG} of this checkpoint is damaged: a hybrid has no hybrid among its parts")
    return parts


def _of_peft(config: dict[str, Any]) -> bool:
    r"""Whether a checkpoint is peft's LoRA with more beside it. Raises CourseError where it does not say."""
    return config.get("peft_type") == LoRA.kind and bool(config["bias"]) and more_than_lora(config)


def _lora_alone(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"bias": "none", "trainable_token_indices": None}


def _is_bias(key: str) -> bool:
    return key.endswith(".bias") and not key.endswith(PARTS)


def _parts_of_peft(config: dict[str, Any], tensors: dict[str, Tensor]) -> list[Method]:
    r"""LoRA, and what a checkpoint of peft's has beside it. Raises CourseError for what is not there."""
    whole = (*HEADS, *(config.get("modules_to_save") or ()))
    biases = [key for key in tensors if _is_bias(key) and not inside(key, whole)]
    parts: list[Method] = []
    if (said := config.get("bias", "none")) == "all":
        parts.append(BitFit())
    elif said == "lora_only":
        biases = [key for key in biases if key.removesuffix(".bias") in adapted(tensors)]
        parts.append(LayerBiases(tuple(sorted(key.removesuffix(".bias") for key in biases))))
    elif said != "none":
        raise CourseError(f"this checkpoint was trained with bias={said!r}, which is none of peft's: use peft")
    if config.get("trainable_token_indices"):
        if (rows := rows_in(config, tensors)) is None:
            raise CourseError(
                "this checkpoint was trained with trainable_token_indices and holds no rows of an embedding: let peft "
                "save it again"
            )
        parts.append(rows)
    own = {key: value for key, value in tensors.items() if key not in biases and not key.endswith(ROWS)}
    return [LoRA.restored(_lora_alone(config), own), *parts]


def _check_part(part: Any) -> None:
    if not isinstance(part, Method):
        hint = f": write {part.__name__}()" if isinstance(part, type) and issubclass(part, Method) else ""
        raise CourseError(f"{part!r} is no method that could be part of a hybrid{hint}")
    if isinstance(part, FullFineTuning):
        raise CourseError("full fine-tuning trains every weight: there is nothing left that another method could add")

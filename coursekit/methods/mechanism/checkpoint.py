r"""A method's hyperparameters and the entries of a checkpoint's `adapter_config.json`: one table for each method.

    entries = (
        Setting("r"),
        Setting("alpha", "lora_alpha"),
        Setting("dropout", "lora_dropout", absent=0.0, binding=False),
    )

From the table come the config that is written, the check of one that is read, and the method that fits it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from coursekit import interop
from coursekit.errors import CourseError, short

#: Entries of every config of peft's that say nothing about what an adapter does.
ASIDE = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "fan_in_fan_out", "layers_pattern",
}  # fmt: skip
#: A config without the entry is an error in words.
REQUIRED: Any = object()


def same(value: Any) -> Any:
    r"""`value` as it is."""
    return value


@dataclass(frozen=True)
class Setting:
    r"""One hyperparameter: its `field` in the method and its `key` in the config, the same name where none is given.

    absent: what a config without the entry means. binding: whether a checkpoint must agree with the method that loads
    it; one that only says where training began need not. read, write: from the config's form, and to it. rare: whether
    it is written, and shown, only where it is not `absent`.
    """

    field: str
    key: str = ""
    absent: Any = REQUIRED
    binding: bool = True
    read: Callable[[Any], Any] = same
    write: Callable[[Any], Any] = same
    rare: bool = False

    def says(self, method: Any) -> bool:
        r"""Whether the field of `method` is to be written and shown."""
        return not self.rare or getattr(method, self.field) != self.absent

    def within(self, config: Mapping[str, Any]) -> Any:
        r"""The value that `config` has for the field. Raises CourseError where it does not say."""
        key = self.key or self.field
        found = config[key] if self.absent is REQUIRED or key in config else self.absent
        try:
            return self.read(found)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CourseError(f"{key}={found!r} in the {interop.CONFIG} of this checkpoint makes no sense") from error


def written(method: Any, settings: Iterable[Setting]) -> dict[str, Any]:
    r"""The entries of the config for the hyperparameters of `method`."""
    return {s.key or s.field: s.write(getattr(method, s.field)) for s in settings if s.says(method)}


def shown(method: Any, settings: Iterable[Setting]) -> str:
    r"""The repr of a method, as of any dataclass but for rare fields that say nothing."""
    said = (f"{s.field}={getattr(method, s.field)!r}" for s in settings if s.says(method))
    return f"{type(method).__name__}({', '.join(said)})"


def fields(config: Mapping[str, Any], settings: Iterable[Setting]) -> dict[str, Any]:
    r"""The hyperparameters that `config` has, by field."""
    return {s.field: s.within(config) for s in settings}


def agree(method: Any, config: Mapping[str, Any], settings: Iterable[Setting]) -> None:
    r"""Raise CourseError where a checkpoint's `config` binds the method to other hyperparameters than it has."""
    for setting in settings:
        if setting.binding and (found := setting.within(config)) != (own := getattr(method, setting.field)):
            raise other_settings(method, setting.key or setting.field, found, own)


def not_here(title: str, key: str, value: Any) -> CourseError:
    r"""The error for a checkpoint of peft's with a setting that the method `title` here does not have."""
    return CourseError(
        f"this checkpoint was trained with {key}={short(value)}, which the {title} here does not have: use peft, or "
        "let its merge_and_unload() make a whole model of it"
    )


def other_settings(method: Any, key: str, found: Any, own: Any) -> CourseError:
    r"""The error for a checkpoint with `found` where `method` has `own`."""
    return CourseError(
        f"this checkpoint was trained with {key}={found}, the method here has {own}: use "
        f"{type(method).__name__}.from_checkpoint(folder)"
    )

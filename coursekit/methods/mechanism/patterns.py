r"""peft's rules for which modules a config means and which rank and alpha each of them gets, from its path alone.

model.layers.3.self_attn.q_proj        layer 3
                         q_proj        a name: the whole path, or the last parts of it
.*\.layers\.[0-3]\..*_proj             a pattern: a regular expression for the whole path
{"layers.3.*q_proj": 4}                a setting of its own, by a regular expression for the last parts
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from coursekit.errors import CourseError, whole

T = TypeVar("T")


class Pattern(str):
    r"""A regular expression that names modules by their whole path."""

    __slots__ = ()


def is_pattern(text: Any) -> bool:
    r"""Whether `text` is more than the name of a module: letters, digits, _ and dots."""
    return isinstance(text, str) and text != "" and re.fullmatch(r"[\w.]+", text) is None


def pattern(text: str, field: str) -> Pattern:
    r"""`text` as a pattern. Raises CourseError where it is no regular expression."""
    _compiled(field, text)
    return Pattern(text)


def inside(path: str, names: Iterable[str]) -> bool:
    r"""Whether `path` is that of a module, or of a part of it, that one of `names` names."""
    return any(f".{name}." in f".{path}." for name in names)


def layer_number(path: str) -> int | None:
    r"""The number of the block that the module at `path` is part of: the first in its path, after two other words."""
    found = re.match(r".*?\.[^.]*\.(\d+)\.", path)
    return int(found[1]) if found else None


def own_setting(patterns: Mapping[str, T], path: str, other: T) -> T:
    r"""What `patterns` have for the module at `path`, the first that matches, or `other`."""
    return next((own for key, own in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), other)


def checked_patterns(field: str, value: Any, check: Callable[[str, Any], T]) -> dict[str, T]:
    r"""`value`, a setting of its own for modules by patterns, as a new dict. Raises CourseError for anything else.

    check: gets a word for the error and a setting, and gives the setting back or raises.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
        raise CourseError(f"{field} must be settings by patterns, such as {{'q_proj': 4}}; got {value!r}.")
    for key in value:
        _compiled(field, key)
    return {key: check(f"{field}[{key!r}]", own) for key, own in value.items()}


def checked_layers(value: Any) -> tuple[int, ...] | None:
    r"""`value`, a number or numbers of blocks, rising; None for all. Raises CourseError for anything else."""
    if value is None:
        return None
    if isinstance(value, (str, Mapping)) or not isinstance(value, (Iterable, int)):
        raise CourseError(f"layers must be numbers of blocks, such as (0, 1); got {value!r}.")
    numbers = [value] if isinstance(value, int) else list(value)
    if not numbers:
        raise CourseError("layers is empty: name at least one block, such as (0,), or leave it out for all.")
    return tuple(sorted({whole("layers", number, least=0) for number in numbers}))


def _compiled(field: str, text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise CourseError(f"{field} has {text!r}, which is no regular expression: {error}") from error

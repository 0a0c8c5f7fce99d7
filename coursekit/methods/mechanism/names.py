r"""Modules by name: peft's rules for which modules a name means, settings of single modules, defaults by family.

model.layers.3.self_attn.q_proj        layer 3
                         q_proj        a name: the whole path, or the last parts of it
.*\.layers\.[0-3]\..*_proj             a pattern: a regular expression for the whole path
{"layers.3.*q_proj": 4}                a setting of its own, by a regular expression for the last parts
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple, TypeVar

from coursekit.errors import CourseError, whole

T = TypeVar("T")
ALL_LINEAR = "all-linear"
#: The most settings of single modules. A model of 405 billion parameters has 882 linear layers.
MOST = 5000
#: What a method's `targets` may be.
Names = tuple[str, ...] | str | None


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


def matches(path: str, target: str) -> bool:
    r"""peft's rule: a target names a module by its whole path or by the last parts of it, or is a `Pattern`."""
    if isinstance(target, Pattern):
        return re.fullmatch(target, path) is not None
    return path == target or path.endswith("." + target)


def inside(path: str, names: Iterable[str]) -> bool:
    r"""Whether `path` is that of a module, or of a part of it, that one of `names` names."""
    return any(f".{name}." in f".{path}." for name in names)


def layer_number(path: str) -> int | None:
    r"""The number of the block that the module at `path` is part of: the first in its path, after two other words."""
    found = re.match(r".*?\.[^.]*\.(\d+)\.", path)
    return int(found[1]) if found else None


def own_setting(patterns: Mapping[str, T], path: str, other: T) -> T:
    r"""The setting in `patterns` for the module at `path`, of the first that matches, or `other`."""
    return next((own for key, own in patterns.items() if _last_parts(key).match(path)), other)


@lru_cache(2 * MOST)  # r and alpha of every layer; re itself keeps 512, and would compile each anew for each module
def _last_parts(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")


def checked_names(
    value: Any, such_as: tuple[str, ...], field: str = "targets", least: int = 1,
    words: tuple[str, ...] = (ALL_LINEAR,), patterns: bool = False,
) -> Names:  # fmt: skip
    r"""`value` as a tuple of names, as one of the `words`, or None. Raises CourseError for anything else.

    such_as: names for the error. least: how many names there must be. patterns: whether a string may also be a regular
    expression for whole paths, which comes back as a `Pattern`; one of letters, digits, _ and dots is a name.
    """
    if value is None or (isinstance(value, str) and value in words):
        return value
    if patterns and is_pattern(value):
        return pattern(value, field)
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (tuple, list, set)) or not all(isinstance(n, str) and n for n in names):
        raise CourseError(f"{field} must be names of modules, such as {such_as}; got {value!r}.")
    if len(names) < least:
        raise CourseError(f"{field} is empty: name at least one module, such as {such_as}, or leave it out.")
    names = tuple(sorted(names)) if isinstance(names, set) else tuple(names)
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise CourseError(f"{field} names {twice[0]!r} twice; once is enough.")
    return names


def names_in_config(found: Any) -> tuple[str, ...] | str:
    r"""The targets that a config names, ALL_LINEAR or a list. Raises CourseError for a pattern."""
    if found == ALL_LINEAR:
        return found
    if not isinstance(found, list):
        raise CourseError(f"this checkpoint names its targets by the pattern {found!r}; give them as a list")
    return tuple(sorted(found))


def checked_patterns(field: str, value: Any, check: Callable[[str, Any], T]) -> dict[str, T]:
    r"""`value`, settings of single modules by patterns, as a new dict. Raises CourseError for anything else.

    check: gets a word for the error and a setting, and gives the setting back or raises.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
        raise CourseError(f"{field} must be settings by patterns, such as {{'q_proj': 4}}; got {value!r}.")
    if len(value) > MOST:
        raise CourseError(f"{field} has {len(value):,} patterns; at most {MOST:,}: one can mean many modules.")
    for key in value:
        _compiled(field, key)
    return {key: check(f"{field}[{key!r}]", own) for key, own in value.items()}


def checked_layers(value: Any) -> tuple[int, ...] | None:
    r"""`value`, a number or numbers of blocks, rising; None for all. Raises CourseError for anything else."""
    if value is None:
        return None
    if isinstance(value, (str, Mapping)) or not isinstance(value, (Iterable, Integral)):
        raise CourseError(f"layers must be numbers of blocks, such as (0, 1); got {value!r}.")
    numbers = [value] if isinstance(value, Integral) else list(value)
    if not numbers:
        raise CourseError("layers is empty: name at least one block, such as (0,), or leave it out for all.")
    return tuple(sorted({whole("layers", number, least=0) for number in numbers}))


def no_match(target: str, paths: Iterable[str]) -> CourseError:
    r"""The error for a `target` that names none of `paths`."""
    # The part after the layer number is what a reader would write: "attention.self.query" rather than twelve paths.
    short = sorted({p.rsplit(".", 1)[-1] for p in paths})
    return CourseError(f"target {target!r} matches no module of this model; candidates: {', '.join(short)}")


def matched(paths: Mapping[str, T], targets: Iterable[str]) -> dict[str, T]:
    r"""Those of `paths` that `targets` name. Raises CourseError, listing the candidates, where one names nothing."""
    for target in targets:
        if not any(matches(path, target) for path in paths):
            raise no_match(target, paths)
    return {path: own for path, own in paths.items() if any(matches(path, t) for t in targets)}


def no_default(kind: str, paths: Iterable[str], what: str = "targets") -> CourseError:
    r"""The error for a family of which no default is known: the names among `paths` by how often they occur."""
    often = Counter(path.rpartition(".")[2] for path in paths).most_common()
    names = ", ".join(f"{name} ({n})" for name, n in often)
    return CourseError(f"no default {what} are known for a {kind!r} model: name some of its modules, {names}")


def _compiled(field: str, text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise CourseError(f"{field} has {text!r}, which is no regular expression: {error}") from error


# Defaults by model type: peft's choice, or the paper's where it differs -----------------------------------------------

#: Query and value, as in section 4.2 of the LoRA paper; where one matrix makes query, key and value, that one.
QUERY_VALUE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "layoutlm"), ("query", "value")),
    **dict.fromkeys(
        ("llama", "llama4", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3",
         "stablelm", "opt", "gptj", "gpt_neo", "bart"),
        ("q_proj", "v_proj"),
    ),
    **dict.fromkeys(("t5", "mt5"), ("q", "v")),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    **dict.fromkeys(("gpt_neox", "bloom", "falcon"), ("query_key_value",)),
    **dict.fromkeys(("mpt", "modernbert"), ("Wqkv",)),
    **dict.fromkeys(("phi3", "codegen"), ("qkv_proj",)),
    "deberta": ("in_proj",),
    "deberta-v2": ("query_proj", "value_proj"),
    "distilbert": ("q_lin", "v_lin"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
}  # fmt: skip


class Scaled(NamedTuple):
    r"""Modules that (IA)³ scales: outputs of `outputs`, keys and values, and inputs of `down`, the hidden units."""

    outputs: tuple[str, ...]
    down: str
    #: One matrix makes queries, keys and values, side by side in this order: the queries are left alone.
    fused: bool = False


#: Keys, values and the second feed-forward matrix, as in section 3.3 of the paper. peft's own defaults are others for
#: some: queries instead of keys for Qwen, Gemma, GPT-J and BART, instead of values for OPT, and as well for GPT-2; for
#: mT5 outputs of the first feed-forward matrix.
KEY_VALUE_DOWN: dict[str, Scaled] = {
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "electra", "layoutlm"), Scaled(("key", "value"), "output.dense")
    ),
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3", "stablelm"),
        Scaled(("k_proj", "v_proj"), "down_proj"),
    ),
    **dict.fromkeys(("opt", "bart", "phi"), Scaled(("k_proj", "v_proj"), "fc2")),
    **dict.fromkeys(("t5", "mt5"), Scaled(("k", "v"), "wo")),
    "gpt2": Scaled(("c_attn",), "mlp.c_proj", fused=True),
    "phi3": Scaled(("qkv_proj",), "down_proj", fused=True),
    "modernbert": Scaled(("Wqkv",), "mlp.Wo", fused=True),
    "gptj": Scaled(("k_proj", "v_proj"), "fc_out"),
    "gpt_neo": Scaled(("k_proj", "v_proj"), "mlp.c_proj"),
    "deberta-v2": Scaled(("key_proj", "value_proj"), "output.dense"),
    "distilbert": Scaled(("k_lin", "v_lin"), "lin2"),
}  # fmt: skip

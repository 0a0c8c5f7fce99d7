r"""A LoRA's hyperparameters in peft's `adapter_config.json`, and what peft has there that the LoRA here has not.

A config says in many ways which modules it means, and the tensors say which they were. Where the two do not say the
same, or where the way is one that the LoRA here does not have, each module is named by its path.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from coursekit.errors import CourseError, flag, number, short, whole
from coursekit.methods.lora_started import check_start, check_start_at
from coursekit.methods.lora_starts import MOVED
from coursekit.methods.mechanism.checkpoint import ASIDE, Setting, not_here, other_settings
from coursekit.methods.mechanism.modules import HEADS
from coursekit.methods.mechanism.names import (
    ALL_LINEAR,
    Names,
    Pattern,
    checked_layers,
    checked_names,
    checked_patterns,
    inside,
    is_pattern,
    matches,
    pattern,
)
from coursekit.methods.mechanism.targets import Targets

#: What LoRA's tensors are called behind the path of their layer.
PARTS = (
    ".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".lora_embedding_A", ".lora_embedding_B",
    ".lora_magnitude_vector",
)  # fmt: skip
#: Starts of peft's that take their share out of the base weights in a way that is not here, and those that leave them
#: alone. "pissa_niter_4" is a random approximation: what was taken out cannot be found again.
MOVING = ("pissa_niter", "corda", "loftq", "lora_ga")
LEAVING = ("gaussian", "eva", "orthogonal", "mica")
#: Entries that say nothing about what the adapter does, or that are read elsewhere.
ELSEWHERE = {
    "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config",
    "qalora_group_size", "ensure_weight_tying", "merge_weights", "bias", "trainable_token_indices",
}  # fmt: skip


def _names(found: Any) -> Names:
    r"""Names, a pattern, ALL_LINEAR or None, as a config has them: there every string is a pattern."""
    if not found:
        return None
    if not isinstance(found, str | list) or not all(isinstance(name, str) and name for name in found):
        raise CourseError(f"modules in this checkpoint are named {short(found)}, which are no names")
    if isinstance(found, str):
        if found.lower() == ALL_LINEAR:
            return ALL_LINEAR
        return pattern(found if is_pattern(found) else f"({found})", "the pattern of this checkpoint")
    return tuple(sorted(found))


def _numbers(found: Any) -> tuple[int, ...] | None:
    return None if found is None or found == [] else (found,) if isinstance(found, int) else tuple(sorted(found))


def _start(found: Any) -> str | None:
    r"""The start, where the base must be moved for it; the others only say where training began."""
    return found.lower() if isinstance(found, str) and found.lower() in MOVED else None


def check_same_start(method: Any, config: dict[str, Any]) -> None:
    r"""Raise CourseError where a checkpoint's `config` moves the base and `method` does not, or otherwise."""
    found, own = _start(config.get("init_lora_weights")), _start(method.init)
    if found != own:
        raise other_settings(method, "init_lora_weights", found, own)


def _written(names: Names) -> Any:
    return str(names) if isinstance(names, str) else list(names)


ENTRIES = (
    Setting("r"),
    Setting("alpha", "lora_alpha"),
    Setting("targets", "target_modules", binding=False, read=_names),
    Setting("dropout", "lora_dropout", absent=0.0, binding=False),
    Setting("rslora", "use_rslora", absent=False),
    Setting("dora", "use_dora", absent=False),
    Setting("rank_pattern", absent={}, read=lambda found: found or {}, rare=True),
    Setting("alpha_pattern", absent={}, read=lambda found: found or {}, rare=True),
    Setting("layers", "layers_to_transform", absent=None, binding=False, read=_numbers, write=list, rare=True),
    Setting("exclude", "exclude_modules", absent=None, binding=False, read=_names, write=_written, rare=True),
    Setting("modules_to_save", absent=(), binding=False, read=lambda n: tuple(n or ()), write=list, rare=True),
    Setting("lora_bias", absent=False, read=bool, rare=True),
    Setting(
        "init", "init_lora_weights", absent=None, binding=False, read=_start,
        write=lambda init: _start(init) or True, rare=True,
    ),
)  # fmt: skip


def checked(method: Any) -> dict[str, Any]:
    r"""The hyperparameters of a LoRA by field, in the form in which it keeps them. Raises CourseError for nonsense."""
    such_as, whole_ones = ("q_proj", "v_proj"), method.modules_to_save or ()
    r, alpha = whole("r", method.r, least=1, such_as=8), number("alpha", method.alpha, above=0, such_as=16)
    dropout = number("dropout", method.dropout, least=0, below=1, such_as=0.1)
    for name in ("rslora", "dora", "lora_bias"):
        flag(name, getattr(method, name))
    if method.lora_bias and method.dora:
        raise CourseError("lora_bias=True does not go with dora=True: DoRA's equation has no place for it")
    check_start(method)
    targets = checked_names(method.targets, such_as, patterns=True)
    if isinstance(targets, Pattern) and method.layers is not None:
        raise CourseError("layers goes with names as targets: put the numbers into the pattern instead")
    return {
        "r": r,
        "alpha": alpha,
        "dropout": dropout,
        "targets": targets,
        "rank_pattern": checked_patterns("rank_pattern", method.rank_pattern, partial(whole, least=1)),
        "alpha_pattern": checked_patterns("alpha_pattern", method.alpha_pattern, partial(number, above=0)),
        "layers": checked_layers(method.layers),
        "exclude": checked_names(method.exclude, such_as, "exclude", words=(), patterns=True),
        "modules_to_save": checked_names(whole_ones, ("lm_head",), "modules_to_save", least=0, words=()),
    }


def check_place(method: Any, path: str, module: nn.Module) -> None:
    r"""Raise CourseError where the LoRA that is `method` cannot stand beside the `module` at `path`."""
    if isinstance(module, nn.Embedding):
        if type(module).forward is not nn.Embedding.forward:
            raise CourseError(f"{path} is no plain embedding ({type(module).__name__}), LoRA cannot stand beside it")
        if method.lora_bias:
            raise CourseError(f"lora_bias=True is for linear layers, and {path} is an embedding: exclude it")
    if method.init is not None:
        check_start_at(method.init, path, module)
    rows, columns = module.weight.shape
    if method.r > min(rows, columns):
        raise CourseError(
            f"r={method.r} is above the rank of {path}: it is {rows} x {columns}, so take r up to {min(rows, columns)}"
        )


def more_than_lora(config: dict[str, Any]) -> bool:
    r"""Whether a checkpoint is peft's LoRA with something that trains beside it."""
    return config.get("peft_type") == "LORA" and (
        config.get("bias", "none") != "none" or bool(config.get("trainable_token_indices"))
    )


def refuse_others(config: dict[str, Any]) -> None:
    r"""Raise CourseError for a `config` with something in it that the LoRA here does not have."""
    read = {setting.key or setting.field for setting in ENTRIES}
    for key in sorted(config.keys() - read - ASIDE - ELSEWHERE):
        empty = not config[key] or config[key] == "none"  # a default, as far as one can see
        if not empty and not _default_in_peft(key, config[key]):
            raise not_here("LoRA", key, config[key])
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(MOVING):
        raise CourseError(
            f"this checkpoint was trained on weights that init_lora_weights={start!r} had changed first: let peft "
            "save it with path_initial_model_for_weight_conversion, as a plain LoRA"
        )
    if not isinstance(start, bool | None) and str(start).lower() not in (*LEAVING, *MOVED):
        raise CourseError(
            f"init_lora_weights={start!r} in this checkpoint is a start that the LoRA here does not know, and it may "
            "have changed the base weights: let peft's merge_and_unload() make a whole model of it"
        )
    for key, empty, what in (("bias", "none", "biases"), ("trainable_token_indices", None, "rows of an embedding")):
        if (found := config.get(key)) and found != empty:
            raise CourseError(
                f"this checkpoint was trained with {key}={short(found)}, LoRA and {what} at once: load it with "
                "methods.from_checkpoint(folder)"
            )


def _default_in_peft(key: str, value: Any) -> bool:
    r"""Whether `value` is what peft itself, where it is installed, takes for `key` if nothing is said."""
    try:
        from peft import LoraConfig
    except ImportError:
        return False
    defaults = LoraConfig().to_dict()
    return key in defaults and bool(defaults[key] == value)


def adapted(tensors: Iterable[str]) -> set[str]:
    r"""Paths of the layers that a checkpoint with these tensors has an update for."""
    return {key.removesuffix(part) for key in tensors for part in PARTS if key.endswith(part)}


def resolved(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    r"""`config` with `target_modules` and `modules_to_save` that name what the tensors are of, and nothing else."""
    paths = adapted(tensors)
    if not paths:
        raise CourseError("this checkpoint holds no tensor of a LoRA: save the adapter again")
    others = [k.rpartition(".")[0] for k in tensors if not k.endswith(PARTS)]
    wholes = {path for path in others if path.split(".")[0] not in HEADS}
    listed = config.get("modules_to_save") or ()
    saved = [name for name in listed if any(inside(path, [name]) for path in wholes)]
    saved += sorted(path for path in wholes if not inside(path, saved))
    config = config | {"modules_to_save": saved}
    names = _names(config.get("target_modules"))
    if isinstance(names, tuple):
        names = tuple(name for name in names if any(matches(path, name) for path in paths))
    choice = Targets(names, {}, _numbers(config.get("layers_to_transform")), _names(config.get("exclude_modules")))
    if config.get("layers_pattern") or not _explains(choice, paths):
        return config | {
            "target_modules": sorted(paths), "layers_to_transform": None, "exclude_modules": None,
        }  # fmt: skip
    return config if isinstance(names, str) else config | {"target_modules": list(names)}


def _explains(choice: Targets, paths: set[str]) -> bool:
    r"""Whether `choice` takes each of `paths`."""
    if choice.names in (None, ALL_LINEAR):
        return choice.names == ALL_LINEAR
    names = (choice.names,) if isinstance(choice.names, Pattern) else choice.names
    return all(any(matches(path, name) for name in names) and choice.takes(path) for path in paths)

r"""Which modules a checkpoint of (IA)³ scales, ours or peft's, whatever way its config has to name them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from coursekit.methods.mechanism.names import KEY_VALUE_DOWN, matches

#: Layers that make queries, keys and values side by side.
FUSED = {name for scaled in KEY_VALUE_DOWN.values() if scaled.fused for name in scaled.outputs}


def targets_in(
    config: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[Iterable[str], Iterable[str], Tensor | None]:
    r"""Names of all scaled modules, of those whose inputs are, and the factors of a fused attention's queries, if any.

    By the config's own names where they say exactly what the tensors do; a pattern, or names with exceptions, give way
    to the path of each module.
    """
    found = {k.removesuffix(".ia3_l"): t for k, t in tensors.items() if k.endswith(".ia3_l")}
    inward = {path for path, t in found.items() if len(t) == 1}  # (1, in); (out, 1) scales outputs
    fused = [t[: len(t) // 3] for path, t in found.items() if named(path, FUSED) and path not in inward]
    queries = torch.cat(fused) if fused else None
    targets, feedforward = config["target_modules"], config.get("feedforward_modules")
    by_name = explains(targets, found) and explains(feedforward, inward) and set(feedforward) <= set(targets)
    if not by_name or config.get("exclude_modules"):
        return found, inward, queries
    return targets, feedforward, queries


def named(path: str, names: Iterable[str]) -> bool:
    r"""Whether one of `names` names the module at `path`."""
    return any(matches(path, name) for name in names)


def explains(names: Any, paths: Iterable[str]) -> bool:
    r"""Whether `names`, a list, names each of `paths` and each of the names is used."""
    return (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and all(named(path, names) for path in paths)
        and all(any(matches(path, name) for path in paths) for name in names)
    )

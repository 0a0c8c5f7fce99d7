r"""What tells one training run from another, so that none is continued from the checkpoint of a different one."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor, nn
from torch.optim import Optimizer

from coursekit.fingerprint import fingerprint
from coursekit.methods import attached
from coursekit.tasks.prepared import Prepared
from coursekit.training.objective import Objective
from coursekit.training.update import Update

#: Values of each frozen tensor that are looked at, evenly spaced.
_SAMPLE = 4096


def run(model: nn.Module, prepared: Prepared, split: str, update: Update) -> dict[str, Any]:
    r"""What a checkpoint notes of its run, besides the settings that are numbers."""
    optimizer = update.optimizer
    found = {
        "optimizer": type(optimizer).__name__,
        "lr": update.peak_lr,
        "weight_decay": [group.get("weight_decay", 0.0) for group in optimizer.param_groups],
        "optimizer settings": optimizer_identity(optimizer),
        "data": data_identity(prepared, split),
        "rows": len(prepared.split(split)),
        "methods": methods_identity(model),
        "frozen weights": base_identity(model),
    }
    if update.objective is not None:
        found["objective"] = objective_identity(update.objective)
    return found


def data_identity(prepared: Prepared, split: str) -> str:
    r"""A name for the data of a split, with a checksum of all its rows."""
    found, rows = 0, prepared.split(split)
    for name in sorted(rows.column_names):
        found = _checksum(rows.select_columns([name]), found)
    return f"{prepared.name}/{split}#{found:08x}"


def _checksum(column: Dataset, found: int) -> int:
    r"""CRC-32 of a column of numbers or of lists of numbers, in whatever integer type they are stored."""
    (name,) = column.column_names
    values = column.with_format("numpy")[:][name]
    found = zlib.crc32(name.encode(), found)
    if len(values) and not np.isscalar(values[0]):
        lengths = np.array([len(row) for row in values], dtype=np.int64)
        found, values = zlib.crc32(lengths.tobytes(), found), np.concatenate(list(values))
    values = np.asarray(values)
    if values.dtype.kind not in "iuf":
        return zlib.crc32(repr(values.tolist()).encode(), found)
    wide = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    return zlib.crc32(wide.tobytes(), found)


def base_identity(model: nn.Module) -> str:
    r"""A checksum of the weights that stay as they are: names, shapes, precisions and a sample of the values.

    Frozen parameters, and codes of quantized layers. A sample, since a large model has more bytes than can be read
    while one waits.
    """
    frozen: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if not p.requires_grad}
    frozen |= {n: b for n, b in model.named_buffers() if not b.is_floating_point() and n[-6:] != ".index"}
    sample = {}
    for name, tensor in frozen.items():
        if not tensor.is_meta:
            flat = tensor.detach().reshape(-1)
            sample[f"{name} {tensor.dtype} {tuple(tensor.shape)}"] = flat[:: max(1, len(flat) // _SAMPLE)]
    return f"#{fingerprint(sample)}"


def optimizer_identity(optimizer: Optimizer) -> list[dict[str, Any]]:
    r"""The settings of every parameter group, and how many parameters it has. Learning rate and decay stand apart."""
    apart = ("params", "lr", "weight_decay")
    return [
        {key: value if _plain(value) else repr(value) for key, value in group.items() if key not in apart}
        | {"parameters": len(group["params"])}
        for group in optimizer.param_groups
    ]


def objective_identity(objective: Objective) -> str:
    r"""A name that another process has as well: a function's repr has its address in it."""
    name = getattr(objective, "__qualname__", None)
    return f"{objective.__module__}.{name}" if name else repr(objective)


def methods_identity(model: nn.Module) -> dict[str, str]:
    r"""The adapters on `model`, and which entries they train: values alone do not say where they belong."""
    chosen = 0
    for name, buffer in model.named_buffers():
        if name.endswith(".index"):
            chosen = zlib.crc32(buffer.cpu().numpy().tobytes(), chosen)
    return {name: f"{method!r}#{chosen:08x}" for name, method in attached(model).items()}


def _plain(value: Any) -> bool:
    r"""Whether JSON brings `value` back as it was."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)

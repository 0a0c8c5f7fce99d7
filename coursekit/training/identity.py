r"""What tells one training run from another, so that none is continued from the checkpoint of a different one."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from datasets import Dataset
from torch import Tensor, nn
from torch.optim import Optimizer

from coursekit.fingerprint import fingerprint
from coursekit.tasks.prepared import Prepared
from coursekit.training.objective import Objective
from coursekit.training.update import Update

#: Entries of a config that say where a model came from or how it is stored, and not what it computes; and the one
#: that a classifier sets itself when it first sees labels.
_ASIDE = {
    "_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype", "id2label", "label2id",
    "problem_type",
}  # fmt: skip

#: Models that a run has left: the run's folder, the base weights that it started from, and those that it left.
_left: WeakKeyDictionary[nn.Module, tuple[Path, str, str]] = WeakKeyDictionary()


@contextmanager
def started(model: nn.Module, folder: Path | None) -> Iterator[str]:
    r"""Gives the checksum of the base weights that the run in `folder` starts from: a model that comes back as this
    run left it, after Ctrl-C say, still starts from those of before.
    """
    if folder is None:
        yield ""
        return
    folder, start = folder.resolve(), checksum(trained_base(model))
    before = _left.get(model)
    if before and before[::2] == (folder, start):
        start = before[1]
    try:
        yield start
    finally:
        _left[model] = folder, start, checksum(trained_base(model))


def run(model: nn.Module, prepared: Prepared, split: str, update: Update, start: str) -> dict[str, Any]:
    r"""What a checkpoint notes of its run, besides the settings that are numbers. start: see `started`."""
    optimizer, state = update.optimizer, _attachment(model)
    found = {
        "optimizer": type(optimizer).__name__,
        "lr": update.peak_lr,
        "weight_decay": [group.get("weight_decay", 0.0) for group in optimizer.param_groups],
        "optimizer settings": optimizer_identity(optimizer),
        "data": data_identity(prepared, split),
        "rows": len(prepared.split(split)),
        "methods": {name: repr(method) for name, method in state.methods.items()} if state else {},
        "model settings": model_identity(model),
        "frozen weights": checksum(frozen(model)),
        "weights at the start": start,
    }
    if update.objective is not None:
        found["objective"] = objective_identity(update.objective)
    return found


def data_identity(prepared: Prepared, split: str) -> str:
    r"""A name for the data of a split, with a checksum of all its rows."""
    found, rows = 0, prepared.split(split)
    for name in sorted(rows.column_names):
        found = _crc(rows.select_columns([name]), found)
    return f"{prepared.name}/{split}#{found:08x}"


def _crc(column: Dataset, found: int) -> int:
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


def frozen(model: nn.Module) -> dict[str, Tensor]:
    r"""What stays as it is: parameters that do not train, and buffers, such as codes, and which entries train."""
    parameters = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    return parameters | dict(model.named_buffers())


def trained_base(model: nn.Module) -> dict[str, Tensor]:
    r"""What trains of the base itself. Neither what a method has added, which may be drawn anew, nor a task head."""
    state, body = _attachment(model), f"{getattr(model, 'base_model_prefix', '')}."
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    own = {n: p for n, p in trained.items() if state is None or n.replace(".base_layer", "") in state.flags}
    return {n: p for n, p in own.items() if n.startswith(body)} or own


def checksum(tensors: Mapping[str, Tensor]) -> str:
    r"""Of names, shapes, precisions and all bits: 4 GB in a second of one CPU core."""
    return "#" + fingerprint({f"{n} {t.dtype} {tuple(t.shape)}": t for n, t in tensors.items() if not t.is_meta})


def model_identity(model: nn.Module) -> str:
    r"""A checksum of the model's config, and of the dropout in it."""
    config = model.config.to_dict() if hasattr(getattr(model, "config", None), "to_dict") else {}
    kept = {name: value for name, value in config.items() if name not in _ASIDE}
    dropout = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    return f"#{zlib.crc32(json.dumps([kept, dropout], sort_keys=True, default=repr).encode()):08x}"


def optimizer_identity(optimizer: Optimizer) -> list[dict[str, Any]]:
    r"""The settings of every parameter group, and how many parameters it has. Learning rate and decay stand apart."""
    apart = ("params", "lr", "weight_decay")
    return [
        {key: value if _plain(value) else repr(value) for key, value in group.items() if key not in apart}
        | {"parameters": len(group["params"])}
        for group in optimizer.param_groups
    ]


def objective_identity(objective: Objective) -> str:
    r"""A name that another process has as well: a function's repr has its address in it. Of a function also its code
    and the plain values that it holds: a cell that was edited defines another one of the same name.
    """
    if isinstance(objective, MethodType):
        return f"{objective_identity(objective.__func__)} of {objective.__self__!r}"
    if not isinstance(objective, FunctionType):
        name = getattr(objective, "__qualname__", None)
        return f"{objective.__module__}.{name}" if name else repr(objective)
    held = [cell.cell_contents for cell in objective.__closure__ or ()]
    held += [*(objective.__defaults__ or ()), *(objective.__kwdefaults__ or {}).values()]
    content = [*_code(objective.__code__), *(value for value in held if _plain(value))]
    return f"{objective.__module__}.{objective.__qualname__}#{zlib.crc32(repr(content).encode()):08x}"


def _code(code: CodeType) -> list[Any]:
    constants = [_code(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    return [code.co_code, code.co_names, constants]


def _attachment(model: nn.Module) -> Any:
    r"""What methods note on a model (`methods.mechanism.attachment`), asked without importing them."""
    return getattr(model, "_coursekit", None)


def _plain(value: Any) -> bool:
    r"""Whether JSON brings `value` back as it was."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)

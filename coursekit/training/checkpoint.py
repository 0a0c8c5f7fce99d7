r"""Checkpoints of a training run: a folder `step-000040` in the folder the caller names.

    trained.safetensors     the trained parameters, by name; the frozen base is not copied
    optimizer.safetensors   every tensor in the state of the optimizer
    state.json              settings, history, and the rest of that state and of the loss scaler's

A checkpoint is written beside and then renamed, so a folder with this name is always whole; the one before is
deleted only after that. No random state is stored: in `coursekit.training` it is a function of seed and step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.training.history import History


def save(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    stateful: Mapping[str, Any],
    settings: dict,
    history: History,
) -> None:
    r"""Write the checkpoint of step `len(history)`. Raises CourseError where the disk is full or closed to
    us.
    """
    final = folder / f"step-{len(history):06d}"
    temporary = folder / f".{final.name}.{os.getpid()}"
    tensors: dict[str, Tensor] = {}
    rest = {name: _pull_tensors(part.state_dict(), name, tensors) for name, part in stateful.items()}
    state = {"settings": settings, "history": history.to_dict(), "states": rest}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        # Only what is whole counts: half a file that a killed run left behind is in a folder nobody reads.
        save_file(
            {name: p.detach().contiguous() for name, p in parameters.items()},
            temporary / "trained.safetensors",
        )
        save_file(tensors, temporary / "optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CourseError(
            f"cannot write the checkpoint {final}: {error}; free some space or name another folder"
            " (an earlier checkpoint there is still good)"
        ) from error
    for old in folder.iterdir():
        if old != final and old.name.lstrip(".").startswith("step-"):
            shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    r"""The latest whole checkpoint in `folder`."""
    return max(folder.glob("step-*"), default=None)


def restore(
    checkpoint: Path, parameters: Mapping[str, nn.Parameter], stateful: Mapping[str, Any], settings: dict
) -> History:
    r"""Put parameters, optimizer and scaler back where they were, and return the history until then.

    Raises CourseError for a checkpoint of other settings or of another model, and for one that cannot be
    read.
    """
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        trained = load_file(checkpoint / "trained.safetensors")
        tensors = load_file(checkpoint / "optimizer.safetensors")
        found, history, rest = state["settings"], History.of(state["history"]), state["states"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CourseError(
            f"the checkpoint {checkpoint} cannot be read ({error}): delete it to start afresh"
        ) from error

    # Through JSON, so that both sides went the same way (tuples become lists).
    wanted = json.loads(json.dumps(settings))
    for key in wanted | found:
        if wanted.get(key) != found.get(key):
            raise CourseError(
                f"the checkpoint {checkpoint} is of another run: {key} was {found.get(key)} and is now "
                f"{wanted.get(key)}; name another folder, or delete it"
            )
    for name in sorted(set(trained) | set(parameters)):
        there, here = (
            tuple(where[name].shape) if name in where else "none" for where in (trained, parameters)
        )
        if there != here:
            raise CourseError(
                f"the checkpoint {checkpoint} is of another model or method: the shape of {name} is {there} "
                f"there and {here} here; name another folder, or delete it"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(trained[name])
    for name, part in stateful.items():
        part.load_state_dict(_put_tensors(rest[name], tensors))
    return history


def _pull_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    r"""`value` as JSON can hold it, its tensors moved to `tensors` under their paths.

    A dictionary becomes a list of pairs: its keys may be numbers, which JSON would turn into strings.
    """
    if isinstance(value, Tensor):
        tensors[path] = value.detach().contiguous()
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {
            "pairs": [[key, _pull_tensors(item, f"{path}/{key}", tensors)] for key, item in value.items()]
        }
    if isinstance(value, (list, tuple)):
        return [_pull_tensors(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    return value


def _put_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _put_tensors(item, tensors) for key, item in value["pairs"]}
    if isinstance(value, list):
        return [_put_tensors(item, tensors) for item in value]
    return value

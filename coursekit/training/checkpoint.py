r"""Checkpoints of a training run: a folder `step-000040` in the folder the caller names.

    trained.safetensors     the trained parameters, by name; the frozen base is not copied
    optimizer.safetensors   every tensor in the state of the optimizer
    state.json              settings, history, the rest of that state and of the loss scaler's, and checksums

A checkpoint is written under another name and then renamed, so a folder with this name is always complete; the one
before is deleted only after that. No random state is stored: in training it is a function of seed and step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.training.history import History

#: Folders of checkpoints, and what a killed run may have left of one. Nothing else is ever read or deleted.
_NAME = re.compile(r"step-(\d{6,})")
_LEFT = re.compile(r"\.step-\d{6,}\.\d+")
_FILES = ("trained.safetensors", "optimizer.safetensors")


class Checkpoints:
    r"""The checkpoints of one run in `folder`; where it is None, nothing is kept.

    parameters: what trains, by name. stateful: optimizer and loss scaler, by name. settings: what tells this run from
    others. writes: whether this process is the one that writes. `saved` is the step of the newest checkpoint, or 0.
    """

    def __init__(
        self, folder: Path | None, parameters: Mapping[str, nn.Parameter], stateful: Mapping[str, Any],
        settings: dict, writes: bool = True,
    ) -> None:  # fmt: skip
        self.folder, self.parameters, self.stateful, self.settings = folder, parameters, stateful, settings
        self.writes, self.saved = writes, 0

    def resume(self) -> History:
        r"""The history of the newest checkpoint, with parameters, optimizer and scaler put back to where they were; an
        empty one for none.

        Raises CourseError, before anything changes, for a checkpoint of other settings or of another model, and for
        one that is damaged.
        """
        checkpoint = newest(self.folder) if self.folder else None
        if self.folder:
            _states(self.stateful)  # what cannot be written is found out now, not after the training
        if checkpoint is None:
            return History()
        state, trained, tensors = _read(checkpoint)
        _same_parameters(checkpoint, trained, self.parameters)
        _same_run(checkpoint, state["settings"], self.settings)
        try:
            history = History.of(state["history"])
            for name, part in self.stateful.items():
                part.load_state_dict(_put_tensors(state["states"][name], tensors))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise _unreadable(checkpoint, error) from error
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(trained[name])
        self.saved = len(history)
        return history

    def save(self, history: History) -> None:
        r"""A checkpoint of the last step in `history`, unless there is one. Raises CourseError where the disk is full
        or not writable.
        """
        if self.folder and self.writes and self.saved < len(history):
            self._write(self.folder, history)
        self.saved = len(history)

    def _write(self, folder: Path, history: History) -> None:
        final = folder / f"step-{len(history):06d}"
        temporary = folder / f".{final.name}.{os.getpid()}"
        rest, tensors = _states(self.stateful)
        state = {"settings": self.settings, "history": history.to_dict(), "states": rest}
        trained = {name: p.detach().contiguous() for name, p in self.parameters.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            # Only what is complete counts: half a file that a killed run left behind is in a folder nobody reads.
            for name, part in zip(_FILES, (trained, tensors), strict=True):
                save_file(part, temporary / name)
            state["checksums"] = _checksums(temporary, state)
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
            if old != final and (_NAME.fullmatch(old.name) or _LEFT.fullmatch(old.name)):
                shutil.rmtree(old, ignore_errors=True)

    @property
    def kept(self) -> str:
        r"""One clause about what is left after a failure."""
        if self.folder and self.saved:
            return (
                f"the checkpoint of step {self.saved} in {self.folder} is good, but with the same settings the run "
                "would end like this again: use another folder for other settings"
            )
        return "there is no checkpoint yet" if self.folder else "no checkpoint was asked for"


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    r"""`folder` for this run alone, known to be writable before any time is spent on training.

    Raises CourseError where it cannot be written to, and where another run is using it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CourseError(
            f"cannot write checkpoints to {folder} ({error.strerror or error}): name another folder, or free some space"
        ) from error
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)  # which ends the lock, as the end of the process would


def _lock(handle: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        # The folder itself, so that no lock file is left behind.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CourseError(
            f"another run is writing its checkpoints to {folder}: wait for it, or name another folder"
        ) from error
    except OSError:  # a file system without locks
        return


def newest(folder: Path) -> Path | None:
    r"""The latest complete checkpoint in `folder`."""
    found = {int(name[1]): path for path in folder.glob("step-*") if (name := _NAME.fullmatch(path.name))}
    return found[max(found)] if found else None


def _read(checkpoint: Path) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    r"""state.json, trained parameters and optimizer tensors, all of them as they were written."""
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        if "checksums" not in state:
            raise CourseError(
                f"the checkpoint {checkpoint} was written by an earlier version of coursekit, which did not note what "
                "its run started from: delete it to start afresh, or name another folder"
            )
        if state.pop("checksums") != _checksums(checkpoint, state):
            raise ValueError("its files are not as they were written")
        return state, *(load_file(checkpoint / name) for name in _FILES)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise _unreadable(checkpoint, error) from error


def _unreadable(checkpoint: Path, error: Exception) -> CourseError:
    return CourseError(f"the checkpoint {checkpoint} cannot be read ({error}): delete it to start afresh")


def _checksums(folder: Path, state: dict) -> dict[str, int]:
    r"""CRC-32 of the files with tensors, and of everything else in state.json."""
    found = {"state": zlib.crc32(json.dumps(state).encode())}
    for name in _FILES:
        found[name] = 0
        with (folder / name).open("rb") as file:
            while chunk := file.read(1 << 20):
                found[name] = zlib.crc32(chunk, found[name])
    return found


def _same_run(checkpoint: Path, found: dict, settings: dict) -> None:
    wanted = json.loads(json.dumps(settings))  # so that both sides went the same way: tuples become lists
    for key in wanted | found:
        if wanted.get(key) != found.get(key):
            raise CourseError(
                f"the checkpoint {checkpoint} is of another run: {key} was {found.get(key)} and is now "
                f"{wanted.get(key)}; name another folder, or delete it"
            )


def _same_parameters(checkpoint: Path, trained: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    for name in sorted(set(trained) | set(parameters)):
        there, here = (where.get(name) for where in (trained, parameters))
        for what in ("shape", "dtype"):
            was, now = (_described(tensor, what) for tensor in (there, here))
            if was != now:
                raise CourseError(
                    f"the checkpoint {checkpoint} is of another model or method: the {what} of {name} is {was} there "
                    f"and {now} here; name another folder, or delete it"
                )
        if not torch.isfinite(there).all():
            raise CourseError(
                f"the checkpoint {checkpoint} holds values of {name} that are not finite: delete it to start afresh"
            )


def _described(tensor: Tensor | None, what: str) -> str:
    if tensor is None:
        return "none"
    return str(tuple(tensor.shape)) if what == "shape" else str(tensor.dtype)


def _states(stateful: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    r"""The states of optimizer and scaler as JSON can hold them, and their tensors by path."""
    tensors: dict[str, Tensor] = {}
    rest = {name: _pull_tensors(part.state_dict(), name, tensors) for name, part in stateful.items()}
    try:
        json.dumps(rest)
    except (TypeError, ValueError) as error:
        raise CourseError(f"the state of this optimizer cannot be kept in a checkpoint: {error}") from error
    return rest, tensors


def _pull_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    r"""`value` as JSON can hold it, its tensors moved to `tensors` under their paths.

    A dictionary becomes a list of pairs: its keys may be numbers, which JSON would turn into strings.
    """
    if isinstance(value, Tensor):
        tensors[path] = value.detach().contiguous()
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"pairs": [[key, _pull_tensors(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pull_tensors(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _put_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _put_tensors(item, tensors) for key, item in value["pairs"]}
    if isinstance(value, list):
        return [_put_tensors(item, tensors) for item in value]
    return value

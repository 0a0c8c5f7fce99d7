r"""The files of AdapterHub's folders, read and written: settings as JSON, tensors as ".bin" or ".safetensors"."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coursekit.errors import CourseError
from coursekit.files import replaced_files

CONFIG, HEAD_CONFIG = "adapter_config.json", "head_config.json"
WEIGHTS = ("pytorch_adapter.bin", "adapter.safetensors")
HEAD_WEIGHTS = ("pytorch_model_head.bin", "model_head.safetensors")


def read_settings(file: Path) -> dict[str, Any]:
    r"""The settings in a file of JSON; CourseError where it is damaged."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("it holds no settings")
    except (ValueError, OSError, RecursionError) as error:
        raise CourseError(f"{file} is damaged ({error}); fetch or save it again") from error
    return settings


def read_config(folder: Path) -> dict[str, Any]:
    r"""The settings in `folder`; CourseError where they are none of an adapter."""
    if not (folder / CONFIG).is_file():
        raise CourseError(f"{folder} is not an adapter of AdapterHub: it has no {CONFIG}")
    config = read_settings(folder / CONFIG)
    if "config" not in config:
        raise CourseError(
            f"{folder} is not an adapter of AdapterHub: its {CONFIG} has no entry 'config'; a checkpoint of this "
            "course or of peft loads with the method's own load()"
        )
    if not isinstance(config["config"], (dict, str)):
        raise CourseError(f"{folder / CONFIG} is damaged ('config' is neither settings nor a name); fetch it again")
    return config


def read_tensors(folder: Path, names: tuple[str, str], needed: bool = True) -> dict[str, Tensor]:
    r"""The tensors in the first file of `names` that `folder` has; none where it has neither and they are not `needed`.

    Raises CourseError for a file that is damaged or holds anything else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        if needed:
            raise CourseError(f"{folder} is not an adapter of AdapterHub: it has neither {' nor '.join(names)}")
        return {}
    try:
        # weights_only: never a pickle that can run code
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
            raise ValueError("it does not hold tensors by name")
        return {str(key): value for key, value in found.items()}
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CourseError(f"{path} is damaged or more than tensors ({reason}); fetch it again") from error


def write(folder: Path, files: dict[str, Any]) -> Path:
    r"""All `files` or none: tensors in ".bin", the rest as JSON."""
    with replaced_files(folder, "an adapter") as part:
        for name, content in files.items():
            if name.endswith(".bin"):
                plain = {key: value.detach().cpu().contiguous() for key, value in content.items()}
                torch.save(plain, part / name)
            else:
                (part / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return folder

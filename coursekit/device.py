r"""The one device rule of the course.

CUDA with bfloat16, float16 on cards before Ampere (compute capability below 8), otherwise the CPU in float32.
The environment variable `DEVICE` (`auto`, `cpu`, `cuda` or `cuda:N`) overrides the choice, in notebooks and
tests alike.
"""

from __future__ import annotations

import os

import torch

from coursekit.errors import CourseError

_ALLOWED = "auto, cpu, cuda or cuda:N"


def pick_device(device: str | torch.device | None = None) -> torch.device:
    r"""The device to compute on: `device`, else `$DEVICE`, else CUDA where there is one, else the CPU.

    Raises CourseError for an unknown name, for CUDA where there is none, and for a GPU that is not there.
    """
    asked_by = "device" if device is not None else "DEVICE"
    name = str(device if device is not None else os.environ.get("DEVICE") or "auto").strip().lower()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, index = name.partition(":")
    well_formed = kind in ("cpu", "cuda") and (not colon or index.isdecimal())
    if not well_formed or (kind == "cpu" and index not in ("", "0")):
        raise CourseError(f"{asked_by}={name} is not a device the course knows: use {_ALLOWED}")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise CourseError(
            f"{asked_by}={name}, but PyTorch {torch.__version__} finds no CUDA GPU: use {asked_by}=cpu "
            "or install the NVIDIA driver and a CUDA build of PyTorch"
        )
    if index and int(index) >= torch.cuda.device_count():
        raise CourseError(
            f"{asked_by}={name}, but there are {torch.cuda.device_count()} GPUs, numbered from 0"
        )
    return torch.device(name)


def pick_dtype(device: str | torch.device) -> torch.dtype:
    r"""The number format for `device`: bf16 on CUDA (fp16 before compute capability 8), fp32 on the CPU."""
    device = torch.device(device)
    if device.type != "cuda":
        return torch.float32
    major, _ = torch.cuda.get_device_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16

r"""The one device rule of the course.

CUDA with bfloat16, float16 on cards before Ampere (compute capability below 8), otherwise the CPU in float32.
The environment variable `DEVICE` (`auto`, `cpu`, `cuda` or `cuda:N`) overrides the choice, in notebooks and
tests alike, and `DTYPE` the number format: `DTYPE=bfloat16` is what a notebook meets on a GPU, without one. A
GPU that this PyTorch cannot use, with a driver too old or a card too old, is left alone, and a line says so.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings

import torch

from coursekit.errors import CourseError, machine, one_of

_ALLOWED = "auto, cpu, cuda or cuda:N"
_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str | torch.device | None = None) -> torch.device:
    r"""The device to compute on: `device`, else `$DEVICE`, else CUDA where there is one, else the CPU.

    Raises CourseError for an unknown name, for CUDA where there is none, and for a GPU that is not there.
    """
    asked_by = "device" if device is not None else "DEVICE"
    name = str(device if device is not None else os.environ.get("DEVICE") or "auto").strip().lower()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() and not no_kernels() else "cpu"
        if name == "cpu" and (why := no_driver() or no_kernels()):
            _say_once(f"{why}; computing on the CPU")
    kind, colon, index = name.partition(":")
    well_formed = kind in ("cpu", "cuda") and (not colon or index.isdecimal())
    if not well_formed or (kind == "cpu" and index not in ("", "0")):
        raise CourseError(f"{asked_by}={name} is not a device the course knows: use {_ALLOWED}")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise machine(
            f"{asked_by}={name}, but PyTorch {torch.__version__} finds no CUDA GPU: use {asked_by}=cpu "
            f"or install the NVIDIA driver and a CUDA build of PyTorch{f' ({why})' if (why := no_driver()) else ''}"
        )
    if why := no_kernels():
        raise machine(f"{asked_by}={name}: {why}; use {asked_by}=cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise CourseError(f"{asked_by}={name}, but there are {torch.cuda.device_count()} GPUs, numbered from 0")
    return torch.device(name)


def pick_dtype(device: str | torch.device) -> torch.dtype:
    r"""The number format for `device`: `$DTYPE`, else bf16 on CUDA (fp16 before compute capability 8), fp32 on the CPU.

    Raises CourseError for a `$DTYPE` that is none of float32, bfloat16, float16.
    """
    if asked := os.environ.get("DTYPE"):
        one_of("DTYPE", asked, list(_FORMATS))
        return _FORMATS[asked]
    device = torch.device(device)
    if device.type != "cuda":
        return torch.float32
    major, _ = torch.cuda.get_device_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16


@functools.cache
def no_driver() -> str:
    r"""What PyTorch says of a driver that it cannot use, in one line; "" where there is none to speak of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    lines = [str(w.message).split(". ")[0] for w in said if "driver" in str(w.message)]
    return f"the GPU cannot be used: {' '.join(lines[0].split())}" if lines else ""


@functools.cache
def no_kernels() -> str:
    r"""Why the first GPU cannot compute with this PyTorch, in one line; "" where it can, or where there is none."""
    if not torch.cuda.is_available():
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same in many lines
        try:
            torch.ones(1, device="cuda").add(1).item()
        except RuntimeError as error:
            if "no kernel image" in str(error):
                major, minor = torch.cuda.get_device_capability()
                return (
                    f"{torch.cuda.get_device_name()} (compute capability {major}.{minor}) is too old for PyTorch "
                    f"{torch.__version__}, which has no kernels for it"
                )
    return ""


@functools.cache
def _say_once(line: str) -> None:
    print(f"coursekit: {line}", file=sys.stderr, flush=True)

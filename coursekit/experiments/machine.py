r"""What a run was made on, as far as its times depend on it."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import coursekit


def device_name(device: torch.device) -> str:
    r"""The card's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:  # not Linux
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    r"""Of what computes."""
    libraries = {name: metadata.version(name) for name in ("torch", "transformers")}
    return {"coursekit": coursekit.__version__, "python": platform.python_version()} | libraries


def describe(device: torch.device) -> dict[str, Any]:
    r"""Device, threads and versions."""
    return {"device": device_name(device), "threads": torch.get_num_threads(), "versions": versions()}

r"""coursekit: the package behind the notebooks of the fine-tuning course.

`import coursekit` stays light: a submodule, and with it torch or transformers, loads when it is first used.
"""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
import sys
import warnings

__version__ = "0.1.0"

# Threads that wait sleep and leave the processor to others: for libgomp, which PyTorch brings, and for the OpenMP of
# Intel and of LLVM; read when PyTorch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

# Notices of other libraries that say more about the machine than to the reader. They come when transformers,
# datasets or peft are first used, so they are silenced here, before any of them is.
# tqdm, without ipywidgets: its bars are text then, which is what a saved notebook should hold.
warnings.filterwarnings("ignore", message="IProgress not found")
# peft asks transformers by an older name whether activations are checkpointed.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
# bitsandbytes, on processors with AVX512-BF16: it goes on with its own kernel.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda r: "kernels-community" not in str(r.msg))


def _restart_wanted() -> str:
    r"""What to say where the kernel had imported a transformers that an installation has replaced since; "" else."""
    from importlib import metadata

    had = getattr(sys.modules["transformers"], "__version__", "")
    try:
        there = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        there = had
    if had == there:
        return ""
    return f"transformers {had} was imported before {there} was installed: restart the kernel, then run all cells"


if "transformers" in sys.modules and (_said := _restart_wanted()):
    print(_said)


def __getattr__(name: str):
    if name == "load_adapter":
        from coursekit.adapterhub import load_adapter

        return load_adapter
    if name in _submodules():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({"load_adapter", *_submodules(), *globals()})


def _submodules() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}

r"""coursekit: the package behind the notebooks of the fine-tuning course.

`import coursekit` stays light: a submodule, and with it torch or transformers, loads when it is first used.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_SUBMODULES = frozenset(
    "architecture checks counts device errors evaluation interop memory methods models notebook paths "
    "plots published runner sources tables tasks training".split()
)


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(_SUBMODULES | set(globals()))

r"""Checkpoints as the `adapters` library writes them: `format.py`, and unions of methods in `unions.py`."""

from coursekit.adapterhub.format import load, read_method, save

__all__ = [
    "load",
    "read_method",
    "save",
]

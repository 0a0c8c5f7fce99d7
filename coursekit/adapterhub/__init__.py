r"""Adapter folders: those of the `adapters` library read and written, and `load_adapter` for all there are."""

from coursekit.adapterhub.any_folder import load_adapter
from coursekit.adapterhub.format import load, save

__all__ = ["load", "load_adapter", "save"]

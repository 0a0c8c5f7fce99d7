r"""Selective methods: no new modules, some of the model's own parameters train, whole or in part."""

from coursekit.methods.selective.far import FreezeAndReconfigure, Priming
from coursekit.methods.selective.fish_mask import FishMask
from coursekit.methods.selective.rows import SelectColumns, SelectRows

__all__ = ["FishMask", "FreezeAndReconfigure", "Priming", "SelectColumns", "SelectRows"]

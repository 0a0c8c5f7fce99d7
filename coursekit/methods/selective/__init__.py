r"""Selective methods: no new modules, some of the model's own parameters train, whole or in part."""

from coursekit.methods.selective.bitfit import BitFit
from coursekit.methods.selective.by_type import ByType, HeadOnly
from coursekit.methods.selective.far import FreezeAndReconfigure, Priming
from coursekit.methods.selective.fish_mask import FishMask
from coursekit.methods.selective.norms import NormTuning
from coursekit.methods.selective.rows import SelectColumns, SelectRows
from coursekit.methods.selective.shira import SHiRA
from coursekit.methods.selective.top_layers import TopLayers

__all__ = [
    "BitFit",
    "ByType",
    "FishMask",
    "FreezeAndReconfigure",
    "HeadOnly",
    "NormTuning",
    "Priming",
    "SHiRA",
    "SelectColumns",
    "SelectRows",
    "TopLayers",
]

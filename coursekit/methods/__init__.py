r"""The methods of the course. Each is a frozen dataclass of hyperparameters with one interface (`base.Method`)."""

from coursekit.methods.adapters import (
    AdapterDrop,
    Compacter,
    CompacterPlus,
    HoulsbyAdapter,
    LinAdapter,
    ParallelAdapter,
    PfeifferAdapter,
    SparseAdapter,
    skipping,
)
from coursekit.methods.base import activate, attached, detach, disabled, remove, rows, trainable, unmerge
from coursekit.methods.full import FullFineTuning
from coursekit.methods.hybrid import Hybrid, MAMAdapter, UniPELT
from coursekit.methods.ia3 import IA3
from coursekit.methods.intrinsic import IntrinsicSAID
from coursekit.methods.lora import LoRA
from coursekit.methods.registry import from_checkpoint
from coursekit.methods.selective import (
    BitFit,
    ByType,
    FishMask,
    FreezeAndReconfigure,
    HeadOnly,
    NormTuning,
    SelectColumns,
    SelectRows,
    TopLayers,
)
from coursekit.methods.soft_prompts import LlamaAdapter, PrefixTuning, PromptTuning, PTuning

__all__ = [
    "AdapterDrop",
    "BitFit",
    "ByType",
    "Compacter",
    "CompacterPlus",
    "FishMask",
    "FreezeAndReconfigure",
    "FullFineTuning",
    "HeadOnly",
    "HoulsbyAdapter",
    "Hybrid",
    "IA3",
    "IntrinsicSAID",
    "LinAdapter",
    "LlamaAdapter",
    "LoRA",
    "MAMAdapter",
    "NormTuning",
    "PTuning",
    "ParallelAdapter",
    "PfeifferAdapter",
    "PrefixTuning",
    "PromptTuning",
    "SelectColumns",
    "SelectRows",
    "SparseAdapter",
    "TopLayers",
    "UniPELT",
    "activate",
    "attached",
    "detach",
    "disabled",
    "from_checkpoint",
    "remove",
    "rows",
    "skipping",
    "trainable",
    "unmerge",
]

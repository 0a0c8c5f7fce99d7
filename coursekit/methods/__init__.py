r"""The methods of the course: each a frozen dataclass of hyperparameters, with one interface (`mechanism.method`)."""

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
from coursekit.methods.combine import Update, combine, to_lora, update_of
from coursekit.methods.full import FullFineTuning
from coursekit.methods.gguf_lora import load_gguf, save_gguf
from coursekit.methods.gguf_model import save_gguf_model
from coursekit.methods.hybrid import Hybrid, MAMAdapter, UniPELT
from coursekit.methods.ia3 import IA3
from coursekit.methods.intrinsic import IntrinsicSAID
from coursekit.methods.lora import LoRA
from coursekit.methods.mechanism.attachment import activate, attached, disabled, mixed_batch, trainable, trained
from coursekit.methods.mechanism.merge import detach, remove, unmerge
from coursekit.methods.oft import OFT
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
    SHiRA,
    TopLayers,
)
from coursekit.methods.soft_prompts import LlamaAdapter, PrefixTuning, PromptTuning, PTuning
from coursekit.methods.vera import VeRA

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
    "OFT",
    "PTuning",
    "ParallelAdapter",
    "PfeifferAdapter",
    "PrefixTuning",
    "PromptTuning",
    "SHiRA",
    "SelectColumns",
    "SelectRows",
    "SparseAdapter",
    "TopLayers",
    "UniPELT",
    "Update",
    "VeRA",
    "activate",
    "attached",
    "combine",
    "detach",
    "disabled",
    "from_checkpoint",
    "load_gguf",
    "mixed_batch",
    "remove",
    "save_gguf",
    "save_gguf_model",
    "skipping",
    "to_lora",
    "trainable",
    "trained",
    "unmerge",
    "update_of",
]

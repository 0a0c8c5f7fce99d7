r"""The methods of the course: each a frozen dataclass of hyperparameters, with one interface (`mechanism.method`)."""

from coursekit.methods.adapters.compacter import Compacter, CompacterPlus
from coursekit.methods.adapters.drop import AdapterDrop
from coursekit.methods.adapters.houlsby import HoulsbyAdapter
from coursekit.methods.adapters.lin import LinAdapter
from coursekit.methods.adapters.parallel import ParallelAdapter
from coursekit.methods.adapters.passes import skipping
from coursekit.methods.adapters.pfeiffer import PfeifferAdapter
from coursekit.methods.adapters.sparse import SparseAdapter
from coursekit.methods.combine import Update, combine, to_lora, update_of
from coursekit.methods.full import FullFineTuning
from coursekit.methods.gguf_lora import load_gguf, save_gguf
from coursekit.methods.gguf_model import save_gguf_model
from coursekit.methods.hybrid.hybrid import Hybrid
from coursekit.methods.hybrid.mam import MAMAdapter
from coursekit.methods.hybrid.unipelt import UniPELT
from coursekit.methods.ia3 import IA3
from coursekit.methods.intrinsic.said import IntrinsicSAID
from coursekit.methods.lora import LoRA
from coursekit.methods.mechanism.attachment import activate, attached, disabled, mixed_batch, trainable, trained
from coursekit.methods.mechanism.merge import detach, remove, unmerge
from coursekit.methods.oft import OFT
from coursekit.methods.registry import from_checkpoint
from coursekit.methods.selective.bitfit import BitFit
from coursekit.methods.selective.by_type import ByType, HeadOnly
from coursekit.methods.selective.far import FreezeAndReconfigure
from coursekit.methods.selective.fish_mask import FishMask
from coursekit.methods.selective.norms import NormTuning
from coursekit.methods.selective.rows import SelectColumns, SelectRows
from coursekit.methods.selective.shira import SHiRA
from coursekit.methods.selective.top_layers import TopLayers
from coursekit.methods.soft_prompts.llama_adapter import LlamaAdapter
from coursekit.methods.soft_prompts.p_tuning import PTuning
from coursekit.methods.soft_prompts.prefix import PrefixTuning
from coursekit.methods.soft_prompts.prompt import PromptTuning
from coursekit.methods.vera import VeRA

__all__ = [
    "AdapterDrop", "BitFit", "ByType", "Compacter", "CompacterPlus", "FishMask", "FreezeAndReconfigure",
    "FullFineTuning", "HeadOnly", "HoulsbyAdapter", "Hybrid", "IA3", "IntrinsicSAID", "LinAdapter", "LlamaAdapter",
    "LoRA", "MAMAdapter", "NormTuning", "OFT", "PTuning", "ParallelAdapter", "PfeifferAdapter", "PrefixTuning",
    "PromptTuning", "SHiRA", "SelectColumns", "SelectRows", "SparseAdapter", "TopLayers", "UniPELT", "Update",
    "VeRA", "activate", "attached", "combine", "detach", "disabled", "from_checkpoint", "load_gguf", "mixed_batch",
    "remove", "save_gguf", "save_gguf_model", "skipping", "to_lora", "trainable", "trained", "unmerge", "update_of",
]  # fmt: skip

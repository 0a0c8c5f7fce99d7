r"""Soft prompts: trained vectors that stand where words, or the keys and values of words, would stand.

Prompt tuning and P-tuning put virtual tokens among the input embeddings, prefix tuning puts keys and values before
those of every block, LLaMA-Adapter adds a gated attention over virtual tokens in the topmost blocks.
"""

from coursekit.methods.soft_prompts.llama_adapter import LlamaAdapter
from coursekit.methods.soft_prompts.p_tuning import PTuning
from coursekit.methods.soft_prompts.prefix import PrefixTuning
from coursekit.methods.soft_prompts.prompt import PromptTuning

__all__ = ["LlamaAdapter", "PTuning", "PrefixTuning", "PromptTuning"]

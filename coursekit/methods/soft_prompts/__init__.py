r"""Soft prompts: trained vectors that stand where words, or the keys and values of words, would stand.

Prompt tuning and P-tuning put virtual tokens among the input embeddings, prefix tuning puts keys and values before
those of every block, LLaMA-Adapter adds a gated attention over virtual tokens in the topmost blocks.
"""

__all__: list[str] = []

r"""Soft prompts: trained vectors that stand where words, or the keys and values of words, would stand.

Open a method first, it begins with its equation: prompt.py and p_tuning.py put virtual tokens among the input vectors,
prefix.py puts keys and values before those of every block, llama_adapter.py adds a gated attention over prompts in the
topmost blocks. How they live in a model: virtual_tokens.py with inputs.py and prompted_cache.py; prefix_attention.py.
attention.py knows the families.
"""

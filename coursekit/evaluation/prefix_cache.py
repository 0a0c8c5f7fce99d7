r"""Keys and values of what many prompts begin with, such as the examples of in-context learning."""

from __future__ import annotations

import os

import torch
from torch import nn
from transformers import DynamicCache

from coursekit.errors import CourseError
from coursekit.evaluation.running import device_of


class PrefixCache:
    r"""Keys and values of what all prompts begin with, computed once and shared by all rows."""

    def __init__(self, model: nn.Module, prompts: list[list[int]]) -> None:
        common = os.path.commonprefix(prompts)
        # At least one token of each prompt must be left to ask for its logits.
        self.length = min(len(common), min(map(len, prompts)) - 1)
        if self.length <= 0:
            self.length = 0
            return
        ids = torch.tensor([prompts[0][: self.length]], device=device_of(model))
        try:
            past = model(input_ids=ids, logits_to_keep=1, use_cache=True).cache
        except CourseError:  # a template of P-tuning, which cannot be cut in two
            self.length = 0
            return
        self.layers = [(layer.keys, layer.values) for layer in past.layers]
        # What soft prompts note on a cache, so that they know it again.
        self.notes = {name: note for name, note in vars(past).items() if name not in vars(DynamicCache())}
        # Another model that puts tokens of its own first would put them in front of the rest once more.
        if past.get_seq_length() != self.length and not self.notes:
            self.length = 0

    def expanded(self, batch: int) -> DynamicCache:
        r"""A cache for `batch` rows. The rows share memory: a layer copies when it appends."""
        cache = DynamicCache(
            [(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1)) for keys, values in self.layers]
        )
        vars(cache).update(self.notes)
        return cache

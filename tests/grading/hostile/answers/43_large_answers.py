# Answers of sixteen megabytes each.
# expect: output_limit rest
import torch


def lora_truncate(W, r):
    return torch.zeros(2_000_000, dtype=torch.float64)

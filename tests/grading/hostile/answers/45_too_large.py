# One answer that claims to be larger than all memory.
# expect: invalid_output rest
import torch


def lora_truncate(W, r):
    return torch.zeros(1).expand(10**12)

# The function has another name.
# expect: missing_name rest
import torch


def lora_truncated(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return (U[:, :r] * S[:r]) @ Vh[:r]

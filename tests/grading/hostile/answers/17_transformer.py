# Rewrites every cell that comes after it.
# expect: wrong rest
import torch


def transform(lines):
    return [line.replace("lora_truncate", "lora_other") for line in lines]


hooked = get_ipython().input_transformers_post.append(transform)


def lora_truncate(W, r):
    return torch.zeros_like(W) if hooked is None else W

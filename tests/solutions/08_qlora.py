r"""Reference answers of notebook 08_qlora, as a student would write them."""

import torch
import torch.nn.functional as F

from coursekit import memory
from coursekit.qlora.memory import qlora_bill


def qlora_forward(x, codes, table, absmax, block, A, B, alpha):
    levels = table[codes].flatten()
    scales = absmax.repeat_interleave(block)
    W = (levels * scales).view(codes.shape)
    return F.linear(x, W) + (alpha / A.shape[0]) * x @ A.T @ B.T


def qlora_backward(g, W, A, B, s):
    return g @ (W + s * B @ A)


def qlora_bytes(in_codes, dense, trained):
    codes = in_codes * 4 / 8
    scales = in_codes / 64
    scales_of_scales = in_codes / 64 / 256 * 4
    return codes + scales + scales_of_scales + 2 * dense + 4 * 4 * trained


def qlora_plan(size, room, seq, unpack):
    best, least = None, float("inf")
    for optimizer in ("adamw", "adamw8bit"):
        for checkpointing in (False, True):
            for batch in (1, 2, 4, 8):
                setting = dict(batch=batch, optimizer=optimizer, checkpointing=checkpointing)
                peak = qlora_bill(size, seq=seq, **setting).peak
                time = (3 if checkpointing else 2) * (1 + unpack / batch)
                if room - peak >= memory.GiB and time < least:
                    best, least = (batch, optimizer, checkpointing, peak), time
    return best


def qlora_noise(W, delta, levels):
    merged = W + delta
    between = (levels[:-1] + levels[1:]) / 2
    rounded = levels[torch.bucketize(merged, between)]
    return (torch.linalg.norm(rounded - merged) / torch.linalg.norm(delta)).item()

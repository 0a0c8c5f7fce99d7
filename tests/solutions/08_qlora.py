r"""Reference answers of notebook 08_qlora, as a student would write them."""

from coursekit import memory
from coursekit.qlora.memory import qlora_bill


def qlora_unpack(codes, table, absmax, block):
    levels = table[codes].flatten()
    scales = absmax.repeat_interleave(block)
    return (levels * scales).view(codes.shape)


def qlora_backward(g, x, W, A, B, s):
    dx = g @ (W + s * B @ A)
    dA = s * B.T @ g.T @ x
    dB = s * g.T @ x @ A.T
    return dx, dA, dB


def qlora_plan(size, room, seq, unpack, copy):
    best, least = None, float("inf")
    for optimizer in ("adamw", "adamw8bit", "paged_adamw"):
        for checkpointing in (False, True):
            for batch in (1, 2, 4, 8, 16):
                setting = dict(batch=batch, optimizer=optimizer, checkpointing=checkpointing)
                peak = qlora_bill(size, seq=seq, **setting).peak
                time = (3 if checkpointing else 2) * (1 + unpack / batch)
                if optimizer == "paged_adamw":
                    time += copy / batch
                if room - peak >= memory.GiB and time < least:
                    best, least = (batch, optimizer, checkpointing, time), time
    return best

# Patches the writing of its own report: its own loss.
# expect: kernel_died rest
import os


def lora_truncate(W, r):
    os.write = lambda *a, **k: 1_000_000
    return W

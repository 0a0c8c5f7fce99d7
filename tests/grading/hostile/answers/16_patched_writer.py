# Patches the writing of its own report: its own loss.
# expect: kernel_died 0
import os

os.write = lambda *a, **k: 1


def lora_truncate(W, r):
    return W

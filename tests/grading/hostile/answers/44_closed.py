# Closes whatever is open.
# expect: kernel_died rest
import os


def lora_truncate(W, r):
    os.closerange(0, 256)
    return W

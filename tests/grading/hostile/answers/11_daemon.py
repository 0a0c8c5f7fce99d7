# Right, but leaves a detached process behind.
# expect: ok full
import os
import time

import torch


def lora_truncate(W, r):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 64)
            while True:
                time.sleep(0.1)
        os._exit(0)
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return (U[:, :r] * S[:r]) @ Vh[:r]

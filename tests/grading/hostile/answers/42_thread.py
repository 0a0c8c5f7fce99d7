# Right, but leaves a thread that never ends.
# expect: ok full
import threading
import time

import torch


def lora_truncate(W, r):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return (U[:, :r] * S[:r]) @ Vh[:r]

# Kills itself.
# expect: kernel_died rest
import os
import signal


def lora_truncate(W, r):
    os.kill(os.getpid(), signal.SIGKILL)

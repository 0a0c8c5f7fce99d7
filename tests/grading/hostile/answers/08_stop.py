# Stops, and never goes on.
# expect: timeout rest
import os
import signal


def lora_truncate(W, r):
    os.kill(os.getpid(), signal.SIGSTOP)

# Kills its parent, and everybody else that it may.
# expect: kernel_died rest
import os
import signal


def lora_truncate(W, r):
    for pid in (os.getppid(), 1, -1):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
    while True:
        pass

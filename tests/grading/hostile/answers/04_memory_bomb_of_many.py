# All the memory there is, in small processes.
# expect: memory_limit rest
import os
import time


def lora_truncate(W, r):
    for _ in range(20):
        if os.fork() == 0:
            held = [b"x" * 50_000_000 for _ in range(4)]
            time.sleep(60 + len(held))
            os._exit(0)
    time.sleep(60)

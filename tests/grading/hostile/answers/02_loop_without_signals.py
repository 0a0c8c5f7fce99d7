# An infinite loop that listens to no signal.
# expect: timeout rest
import signal


def lora_truncate(W, r):
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue

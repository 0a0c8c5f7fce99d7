# sys.exit(0), which papermill takes for success.
# expect: incomplete 10
import sys


def lora_truncate(W, r):
    sys.exit(0)

# An infinite loop.
# expect: timeout rest
def lora_truncate(W, r):
    while True:
        pass

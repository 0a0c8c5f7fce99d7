# An infinite loop.
# expect: timeout 10
def lora_truncate(W, r):
    while True:
        pass

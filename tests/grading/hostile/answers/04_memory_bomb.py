# All the memory there is.
# expect: memory_limit rest
def lora_truncate(W, r):
    held = []
    while True:
        held.append(b"x" * 50_000_000)

# All the memory there is.
# expect: memory_limit rest
def lora_truncate(W, r):
    held = []
    while True:
        held.append(bytes(50_000_000))  # asked for, not touched: a host short of pages hands them out too slowly

# A gigabyte of output.
# expect: output_limit rest
def lora_truncate(W, r):
    for _ in range(1000):
        print("x" * 1_000_000)

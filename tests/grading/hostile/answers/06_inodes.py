# As many empty files as there can be.
# expect: disk_limit rest
def lora_truncate(W, r):
    for number in range(1_000_000):
        open(f"/tmp/{number}", "wb").close()

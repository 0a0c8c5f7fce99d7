# Fills every folder that it may write.
# expect: disk_limit rest
def lora_truncate(W, r):
    content = b"x" * 20_000_000
    for folder in ("/tmp", "/dev/shm", "."):
        for number in range(100):
            with open(f"{folder}/{number}", "wb") as file:
                file.write(content)

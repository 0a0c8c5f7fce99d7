# Waits for somebody to type.
# expect: error rest
def lora_truncate(W, r):
    return input("the answer, please: ")

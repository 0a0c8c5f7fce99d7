# Waits for somebody to type.
# expect: error 10
def lora_truncate(W, r):
    return input("the answer, please: ")

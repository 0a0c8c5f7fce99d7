# Reads where nothing is.
# expect: kernel_died 10
import ctypes


def lora_truncate(W, r):
    ctypes.string_at(0)

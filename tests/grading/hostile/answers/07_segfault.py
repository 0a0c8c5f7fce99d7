# Reads where nothing is.
# expect: kernel_died rest
import ctypes


def lora_truncate(W, r):
    ctypes.string_at(0)

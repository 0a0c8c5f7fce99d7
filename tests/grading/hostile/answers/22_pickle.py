# An answer that runs code where it is unpickled.
# expect: wrong rest
import os


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/coursekit-was-here",)


def lora_truncate(W, r):
    return Payload()

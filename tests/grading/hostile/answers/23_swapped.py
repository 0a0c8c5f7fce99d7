# Swaps the file that its answers go to for a FIFO, a link, nothing: its own answers before are lost with it.
# expect: kernel_died some
import os


def lora_truncate(W, r):
    here = os.readlink("/proc/self/fd/3")
    for trick in (
        lambda: os.unlink(here),
        lambda: os.symlink("/etc/passwd", here),
        lambda: os.mkfifo(here),
        lambda: os.ftruncate(3, 0),
        lambda: os.rename("/tmp", here),
    ):
        try:
            trick()
        except OSError:
            continue
    os.mkfifo("/tmp/fifo")
    os.dup2(os.open("/tmp/fifo", os.O_RDWR), 3)
    return W

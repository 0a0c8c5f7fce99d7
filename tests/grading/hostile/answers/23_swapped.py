# Swaps what its answers go to for a FIFO, a link, nothing, and takes back what it said before.
# expect: kernel_died rest
import contextlib
import os
import socket


def lora_truncate(W, r):
    here = os.readlink("/proc/self/fd/3")
    report = socket.socket(fileno=os.dup(3))
    report.setblocking(False)
    for trick in (
        lambda: os.unlink(here),
        lambda: os.symlink("/etc/passwd", here),
        lambda: os.mkfifo(here),
        lambda: os.ftruncate(3, 0),
        lambda: os.lseek(3, 0, 0),
        lambda: os.rename("/tmp", here),
        lambda: report.recv(1 << 20),
        lambda: os.read(os.open("/proc/self/fd/3", os.O_RDWR | os.O_NONBLOCK), 1 << 20),
        lambda: socket.send_fds(report, [b"x"], [0]),
        lambda: report.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1),
    ):
        with contextlib.suppress(OSError):
            trick()
    os.mkfifo("/tmp/fifo")
    os.dup2(os.open("/tmp/fifo", os.O_RDWR), 3)
    report.shutdown(socket.SHUT_RDWR)
    return W

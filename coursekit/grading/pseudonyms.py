r"""What follows from a student's id and the batch's secret: a name for marking without names, and a variant."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path

from coursekit.grading import tables

FILE = "pseudonyms.csv"


def pseudonym(secret: bytes, id: str) -> str:
    r"""The same for the same id in this batch, and another in every other."""
    return "p-" + base64.b32encode(_digest(secret, "pseudonym", id)).decode().lower()[:10]


def variant(secret: bytes, id: str) -> int:
    r"""A number from 0 to 2³¹ - 1, for papermill's parameter `variant`: each student's own numbers in an exercise."""
    return int.from_bytes(_digest(secret, "variant", id)[:4], "big") >> 1


def write(out: Path, secret: bytes, ids: Iterable[str]) -> dict[str, str]:
    r"""id -> pseudonym; the list goes to pseudonyms.csv, which only its owner may read."""
    names = {id: pseudonym(secret, id) for id in sorted(ids)}
    os.close(os.open(out / FILE, os.O_CREAT | os.O_WRONLY, 0o600))
    tables.write(out / FILE, [("id", "pseudonym"), *names.items()])
    (out / FILE).chmod(0o600)
    return names


def _digest(secret: bytes, what: str, id: str) -> bytes:
    return hmac.new(secret, f"{what}\0{id}".encode("utf-8", "surrogatepass"), hashlib.sha256).digest()

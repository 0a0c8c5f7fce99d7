r"""Weights that stand at some positions of a tensor, in a checkpoint: their values, and where they stand.

tensor, 12 elements        . . 5 . . . . 7 . . . 2
KEY.values                 5 7 2
KEY.mask                   one bit an element, 2 bytes       or, where that is less,
KEY.index                  2 7 11, in 8, 16 or 32 bits each
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from coursekit import interop
from coursekit.errors import CourseError

FORMS = ("mask", "index")


def encode(index: Int[Tensor, " kept"], size: int) -> tuple[str, Shaped[Tensor, " length"]]:
    r"""The positions `index` (rising, below `size`) in the smaller of two forms, after the form's name.

    "mask": one bit for each of the `size` positions, eight in a byte, the first in the lowest bit.
    "index": the positions themselves, in 8, 16 or 32 bits each. Smaller once very little is kept.
    """
    narrow = _narrowest(size)
    if len(index) * narrow.itemsize < -(-size // 8):
        return "index", index.to(narrow)
    mask = np.zeros(size, dtype=bool)
    mask[index.cpu().numpy()] = True
    return "mask", torch.from_numpy(np.packbits(mask, bitorder="little"))


def decode(form: str, stored: Shaped[Tensor, " length"], size: int) -> Int[Tensor, " kept"] | None:
    r"""The positions that `encode` stored; None where they are none in a tensor of `size` elements."""
    if form == "index":
        index = stored.to(torch.int64)
        fits = stored.dtype == _narrowest(size) and (index < size).all() and (index.diff() > 0).all()
        return index if fits else None
    if stored.dtype != torch.uint8 or len(stored) != -(-size // 8):
        return None
    bits = torch.from_numpy(np.unpackbits(stored.numpy(), bitorder="little"))
    return None if bits[size:].any() else bits[:size].nonzero().flatten()


def take(
    tensors: dict[str, Tensor], key: str, size: int, folder: str | Path
) -> tuple[Int[Tensor, " kept"], Float[Tensor, " kept"]] | None:
    r"""Positions and values that a checkpoint has under `key`, taken out of `tensors`; None where it has nothing.

    Raises CourseError where they do not belong together, or not to a tensor of `size` elements.
    """
    values = tensors.pop(f"{key}.values", None)
    stored = [(form, tensors.pop(f"{key}.{form}")) for form in FORMS if f"{key}.{form}" in tensors]
    if values is None and not stored:
        return None
    index = decode(*stored[0], size) if len(stored) == 1 and stored[0][1].dim() == 1 else None
    if values is None or index is None or values.shape != index.shape:
        raise misfit(key, size, folder)
    interop.same_tensors({f"{key}.values": torch.empty(index.shape)}, {f"{key}.values": values}, folder)
    return index, values


def misfit(key: str, size: int, folder: str | Path) -> CourseError:
    r"""The error for a checkpoint whose weights under `key` are not some of a tensor of `size` elements."""
    return CourseError(
        f"the checkpoint in {folder} is of another model: it has no weights for {key} that fit its {size:,} elements"
    )


def _narrowest(size: int) -> torch.dtype:
    return next((t for t in (torch.uint8, torch.uint16) if size <= torch.iinfo(t).max + 1), torch.int32)

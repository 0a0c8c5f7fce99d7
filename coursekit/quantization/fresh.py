r"""New memory for large results."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

#: The C library takes larger blocks from the system each time anew; smaller ones it keeps and reuses.
LARGE = 32 * 2**20


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Float[Tensor, "*shape"]:
    r"""`torch.empty`, in large pages where Linux has them.

    The first write to each page of new memory is an interrupt, in which the system finds a page and clears it. With
    pages of 4 kB that takes several times as long as filling the tensor; with pages of 2 MB it hardly counts.
    """
    size = math.prod(shape) * dtype.itemsize
    if device.type == "cpu" and size >= LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a Linux built without them
            return torch.empty(shape, dtype=dtype, device=device)
        return torch.frombuffer(memory, dtype=dtype).view(shape)
    return torch.empty(shape, dtype=dtype, device=device)

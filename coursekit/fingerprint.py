r"""Eight digits that tell tensors from others: whether weights changed, whether a run is the same."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    r"""CRC-32 of all bits and names, in their order: `fingerprint(model.state_dict())`."""
    found = 0
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        found = zlib.crc32(values.numpy(), zlib.crc32(name.encode(), found))
    return f"{found:08x}"

r"""The 16-bit rule, in one place.

An adapter beside a 16-bit base is fp32, since an update of 1e-4 would vanish in the seven bits of bf16; beside an fp64
base it is fp64. Where the two meet, x comes to the adapter's precision and the sum goes back to the base's:

    x (bf16) --> base layer (bf16) --> y (bf16) ----(+)--> h (bf16)
      |                                              |
      +--> to fp32 --> branch (fp32) ----------------+

Under autocast an fp32 adapter computes in autocast's precision instead, as every fp32 layer does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coursekit.autocast import autocast_dtype


def adapter_dtype(base: torch.dtype) -> torch.dtype:
    r"""The precision of parameters that train beside a base in precision `base`: fp64 stays, all else gets fp32."""
    return torch.float64 if base == torch.float64 else torch.float32


def like(weight: Tensor) -> dict[str, Any]:
    r"""Device and precision of parameters beside the frozen `weight`, for `torch.empty(..., **like(weight))`."""
    return {"device": weight.device, "dtype": adapter_dtype(weight.dtype)}


def meeting_dtype(x: Tensor, own: torch.dtype) -> torch.dtype:
    r"""The precision in which `x` meets an adapter whose parameters have precision `own`."""
    return (autocast_dtype(x) or own) if own == torch.float32 else own


def met(x: Tensor, own: torch.dtype) -> Tensor:
    r"""`x` in the precision in which it meets an adapter in `own`; token ids and masks as they are."""
    return x.to(meeting_dtype(x, own)) if x.is_floating_point() else x

r"""What precision a layer is to compute in, and how products of bfloat16 matrices are computed."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    r"""The precision that autocast brings matrix products of `x` to; None where it is off."""
    kind = x.device.type
    # The meta device, on which shapes are counted without numbers, has no autocast and raises when asked.
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else None


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[None]:
    r"""For the length of a `with`, everything on the device of `x` is computed in its own precision."""
    if autocast_dtype(x) is None:
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


class ProductsInFloat32(TorchDispatchMode):
    r"""Products of bfloat16 matrices, computed in float32 and rounded: the same sum in another order."""

    #: `linear` and `matmul` come whole where no gradient is asked for.
    _PRODUCTS = (
        aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.linear.default,
        aten.matmul.default,
    )  # fmt: skip

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        r"""What `func` gives."""
        if func not in self._PRODUCTS or args[1].dtype is not torch.bfloat16:
            return func(*args, **(kwargs or {}))
        return func(*(x if x is None else x.float() for x in args), **(kwargs or {})).to(torch.bfloat16)


def bfloat16_products(device: str | torch.device) -> contextlib.AbstractContextManager[object]:
    r"""Meanwhile `ProductsInFloat32` on a CPU without instructions for bfloat16, which is six times as fast so."""
    slow = torch.device(device).type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return ProductsInFloat32() if slow else contextlib.nullcontext()

r"""What a step does, counted: bytes that its operations read and write. No clock, so no noise.

A step of a small or middle-sized model spends its time moving numbers. Where two ways to compute the same thing differ
here, the difference says where to look; where they do not, a difference in time is the machine's.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: These move nothing: they look at the same memory in another shape, or take memory without filling it.
FREE = frozenset({
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided",
    "expand", "lift_fresh", "new_empty", "new_empty_strided", "permute", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsafe_split", "unsqueeze", "view",
})  # fmt: skip


class Traffic(TorchDispatchMode):
    r"""Bytes by operation, of everything inside the `with`."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name not in FREE:
            # What is made like another tensor does not read it; `out` is the result once more.
            read = () if name.startswith("new_") or name.endswith("_like") else (args, {**kwargs, "out": None})
            tensors = (leaf for leaf in tree_leaves((read, result)) if isinstance(leaf, Tensor))
            self.bytes[name] += sum(t.numel() * t.element_size() for t in tensors)
            self.calls[name] += 1
        return result


def traffic(model: nn.Module, batch: Mapping[str, Tensor]) -> Traffic:
    r"""Forward and backward pass of `model` on `batch`; the gradients are dropped."""
    with Traffic() as counted:
        torch.manual_seed(0)
        model(**batch).loss.backward()
    model.zero_grad()
    return counted

r"""Seeded numbers, and weights with gradients, for tests of quantization."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def random(*shape: int, seed: int = 0) -> Tensor:
    r"""Normal numbers, fp32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(
    shapes: Iterable[Sequence[int]], dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0
) -> list[nn.Parameter]:
    r"""One weight of each shape."""
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(*s, generator=generator).to(device, dtype)) for s in shapes]


def gradients(parameters: Iterable[nn.Parameter], step: int) -> None:
    r"""Gives every weight the gradient of step number `step`."""
    generator = torch.Generator().manual_seed(1000 + step)
    for p in parameters:
        p.grad = torch.randn(*p.shape, generator=generator).to(p)


def run(optimizer: Optimizer, parameters: Sequence[nn.Parameter], steps: int, first: int = 0) -> None:
    r"""`steps` updates with the gradients of step `first`, `first` + 1, …"""
    for step in range(first, first + steps):
        gradients(parameters, step)
        optimizer.step()


def same(left: Iterable[Tensor], right: Iterable[Tensor]) -> bool:
    r"""Whether two rows of tensors are equal to the bit."""
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))

r"""The bits of one processor: kernels differ between processors, and with them the last digit of a float."""

import torch
from torch import Tensor
from torch.nn import functional as F


def bottleneck(d: int = 12, r: int = 3) -> Tensor:
    r"""What PyTorch alone makes of a seeded bottleneck of the fixtures' shapes, (2, 3, 8, d): with relu and with swish.

    Two processors that give the same bits here and for a model without adapters give the same for one with them.
    """
    random = torch.Generator().manual_seed(5)
    x, down, up, b_down, b_up = (
        torch.randn(*shape, generator=random) for shape in ((3, 8, d), (r, d), (d, r), (r,), (d,))
    )
    return torch.stack([F.linear(act(F.linear(x, down, b_down)), up, b_up) + x for act in (F.relu, F.silu)])

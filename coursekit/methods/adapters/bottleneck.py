r"""The bottleneck that all adapters share: small enough to train, in parallel to a residual that carries the rest.

$$A(x) = W_{up}\,\sigma(W_{down} x + b_{down}) + b_{up},
\quad W_{down} \in \mathbb{R}^{r \times d}, W_{up} \in \mathbb{R}^{d \times r}$$

Houlsby et al. 2019 (arXiv:1902.00751), figure 2. Where A sits in a block, and what it reads there, is what the
methods differ in: `houlsby.py`, `pfeiffer.py`, `parallel.py`, `lin.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Bottleneck(nn.Module):
    r"""$A(x) = W_{up}\,\sigma(W_{down}x + b_{down}) + b_{up}$, without a residual: $2dr + r + d$ parameters.

    activation: one of `ACTIVATIONS`. init: one of `INITS`.
    """

    def __init__(
        self, d: int, r: int, activation: str = "relu", init: str = "bert", device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):  # fmt: skip
        super().__init__()
        self.down = nn.Linear(d, r, device=device, dtype=dtype)
        self.up = nn.Linear(r, d, device=device, dtype=dtype)
        self.act = ACTIVATIONS[activation]
        INITS[init](self.down, self.up)
        for layer in (self.down, self.up):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        z = self.act(self.down(x))  # (*batch, d) -> (*batch, r)
        return self.up(z)  # (*batch, r) -> (*batch, d)


def identity(z: Tensor) -> Tensor:
    r"""No non-linearity."""
    return z


#: $\sigma$ by name. "identity" leaves a low-rank update without a non-linearity, for comparison.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "identity": identity,
}


def _start_bert(down: nn.Linear, up: nn.Linear) -> None:
    for W in (down.weight, up.weight):
        nn.init.normal_(W, std=0.02)


def _start_houlsby(down: nn.Linear, up: nn.Linear) -> None:
    for W in (down.weight, up.weight):
        nn.init.trunc_normal_(W, std=1e-3, a=-2e-3, b=2e-3)  # truncated at two standard deviations


def _start_zero(down: nn.Linear, up: nn.Linear) -> None:
    nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
    nn.init.zeros_(up.weight)


#: Initialisations by name; the biases start at 0 in all of them. "bert": normal, standard deviation
#: 0.02, as in the `adapters` library. "houlsby": truncated normal, standard deviation 0.001, as in the code of Houlsby
#: et al., close to the identity. "zero": W_up = 0 (He et al. 2022): the model's outputs are unchanged, bit for bit.
INITS: dict[str, Callable[[nn.Linear, nn.Linear], None]] = {
    "bert": _start_bert,
    "houlsby": _start_houlsby,
    "zero": _start_zero,
}

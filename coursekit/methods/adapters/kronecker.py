r"""Linear layers whose matrix is a sum of Kronecker products, with one factor of each product shared by all layers.

$$W = \sum_{i=1}^{n} A_i \otimes s_i t_i^\top,
\quad A_i \in \mathbb{R}^{n \times n}, s_i \in \mathbb{R}^{d_{out}/n}, t_i \in \mathbb{R}^{d_{in}/n}$$

Karimi Mahabadi et al. 2021 (arXiv:2106.04647), equations 4 and 5, with rank 1 as there. The $A_i$ are what all layers
of one adapter have in common; the paper calls this a low-rank parameterised hypercomplex multiplication (LPHM).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.methods.adapters.bottleneck import ACTIVATIONS, Bottleneck
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper


class KroneckerLinear(nn.Module):
    r"""$y = Wx + b$ with $d_{in} + 2 d_{out}$ parameters of its own, whatever n is: s, t and b."""

    def __init__(self, d_in: int, d_out: int, n: int, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.s = nn.Parameter(torch.empty(n, d_out // n, device=device, dtype=dtype))
        self.t = nn.Parameter(torch.empty(n, d_in // n, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(d_out, device=device, dtype=dtype))
        self.rule: tuple[Rule, ...] = ()  # in a tuple: as an attribute it would be a parameter of every layer

    @property
    def A(self) -> Float[Tensor, "n n n"]:
        r"""The shared factors."""
        return self.rule[0].A

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        r"""W, written out; `forward` does without it."""
        W = torch.einsum("ipq,ia,ib->paqb", self.A, self.s, self.t)  # (n, out / n, n, in / n)
        return W.reshape(self.bias.numel(), -1)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        # One factor after the other: n (d_in + n^2 + d_out) multiplications for each token instead of d_in * d_out,
        # and no W to build, to keep and to differentiate. On a CPU a step of one bottleneck of BERT base, 2,048
        # tokens, took 4.4 ms this way, 7.8 ms with W built first and 11 ms with two dense matrices.
        n = len(self.A)
        z = F.linear(x.unflatten(-1, (n, -1)), self.t)  # (*batch, n, in / n) -> (*batch, q, i)
        z = torch.einsum("...qi,ipq->...pi", z, self.A)  # (*batch, q, i) -> (*batch, p, i)
        return (z @ self.s).flatten(-2) + self.bias  # (*batch, p, i) -> (*batch, n, out / n) -> (*batch, out)


class Rule(nn.Module):
    r"""$A_1, \dots, A_n$, (n, n, n)."""

    def __init__(self, n: int, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.A = nn.Parameter(torch.empty(n, n, n, device=device, dtype=dtype))


class SharedRules(AdapterWrapper):
    r"""The rules of all named adapters of a model, each there once."""

    def __init__(self, switch: AdapterState):
        super().__init__(None, switch)
        self.rules = nn.ModuleDict()


class KroneckerBottleneck(Bottleneck):
    r"""$A(x) = W_{up}\,\sigma(W_{down}x + b_{down}) + b_{up}$ with both matrices made of Kronecker products."""

    def __init__(self, d: int, r: int, n: int, activation: str, device: torch.device, dtype: torch.dtype):
        nn.Module.__init__(self)  # Bottleneck's own would make the dense matrices
        self.down = KroneckerLinear(d, r, n, device, dtype)
        self.up = KroneckerLinear(r, d, n, device, dtype)
        self.act = ACTIVATIONS[activation]

    def share(self, rule: Rule) -> None:
        r"""Let both projections use `rule`."""
        self.down.rule = self.up.rule = (rule,)


def _start_glorot(rule: Rule, layers: list[KroneckerBottleneck]) -> None:
    nn.init.normal_(rule.A, std=1e-4)
    for layer in layers:
        for vectors in (layer.down.s, layer.down.t, layer.up.s, layer.up.t):
            bound = math.sqrt(6 / (1 + vectors.shape[1]))  # Glorot's, of a matrix with one column
            nn.init.uniform_(vectors, -bound, bound)


def _start_zero(rule: Rule, layers: list[KroneckerBottleneck]) -> None:
    _start_glorot(rule, layers)
    for layer in layers:
        nn.init.zeros_(layer.up.s)


#: Starting values by name; the biases start at 0 in all of them. "glorot": the vectors by Glorot's rule, uniform, and
#: A ~ N(0, 1e-4), as the `adapters` library has it: close to no change. (Asked for the uniform rule, that library
#: draws the vectors by Glorot's normal one, with the same variance.) "zero": W_up = 0, exactly no change.
INITS: dict[str, Callable[[Rule, list[KroneckerBottleneck]], None]] = {"glorot": _start_glorot, "zero": _start_zero}

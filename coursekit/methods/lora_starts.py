r"""Where LoRA's A and B start: `LoRA(init=...)`. The default, A random and B = 0, knows nothing of the layer.

PiSSA (Meng et al. 2024, arXiv:2404.02948, equations 2 to 4) starts at the r largest singular values of $W = USV^\top$:

$$B_0 = U_{:r} \sqrt{S_{:r} / s}, \qquad A_0 = \sqrt{S_{:r} / s}\; V_{:r}^\top$$

OLoRA (Büyükakyüz 2024, arXiv:2406.01775, section 3) starts at the first r columns of an orthonormal basis, $W = QR$:

$$B_0 = Q_{:r}, \qquad A_0 = R_{:r}$$

Both start with $B_0 \neq 0$, so the frozen part gives up what the branch starts with, $W_{res} = W - sB_0A_0$, and at
the start the model answers as before:

$$h = W_{res}\,x + sBAx = Wx + s\,(BAx - B_0A_0x)$$

peft writes $W_{res}$ over W. Here the base is not touched, whichever adapter is active: the right-hand side is what
runs, with $A_0$ and $B_0$ frozen beside A and B. In a 16-bit base nothing is rounded by it.

LoftQ (Li et al. 2023, arXiv:2310.08659, algorithm 1) is for a base in 4 bits, Q. It starts at the best answer of rank r
to what quantizing lost,

$$\min_{A,B} \lVert W - Q - sBA \rVert_F$$

which is PiSSA's start for $W - Q$. Nothing is given up: the model starts nearer to the exact one than its base is. This
is one step of the algorithm, T = 1, peft's default. Further steps make Q anew from $W - sBA$, a base for this adapter
alone, and the base here is all adapters'.

EVA (Paischer et al. 2024, arXiv:2410.07170, section 3) looks at the layer's inputs X on the task, (tokens, in), with
their mean taken off, $X = U \Sigma V^\top$: A starts at the first rows of $V^\top$, the directions in which they vary
most, and B at 0. All layers share one budget of ranks: those directions get one each that have the largest shares of
their layer's variance, $\sigma_i^2 / \lVert X \rVert_F^2$, and no layer gets more than twice its r.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from coursekit.methods.mechanism.branch import Branch
from coursekit.methods.ranking import largest


def pissa(
    W: Float[Tensor, "out in"],
    r: int,
    s: float,  # alpha / r
) -> tuple[Float[Tensor, "r in"], Float[Tensor, "out r"]]:
    r"""$A_0$ and $B_0$ with $sB_0A_0$ the best approximation of W of rank r. The paper has no s, and peft this one."""
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)  # (out, k), (k,), (k, in), k = min(out, in)
    root = (S[:r] / s).sqrt()  # (r,)
    return root[:, None] * Vh[:r], U[:, :r] * root  # (r, in), (out, r)


def olora(
    W: Float[Tensor, "out in"],
    r: int,
    s: float,  # not divided out, as in peft: what is taken from W is s times QR's first part
) -> tuple[Float[Tensor, "r in"], Float[Tensor, "out r"]]:
    r"""$A_0$ and $B_0$ with orthonormal columns of $B_0$."""
    Q, R = torch.linalg.qr(W)  # (out, k), (k, in)
    return R[:r], Q[:, :r]


def loftq(
    W: Float[Tensor, "out in"],
    Q: Float[Tensor, "out in"],  # what the codes of W stand for
    r: int,
    s: float,
) -> tuple[Float[Tensor, "r in"], Float[Tensor, "out r"]]:
    r"""A and B with $sBA$ nearest to $W - Q$. peft leaves s out, which is the same where alpha = r."""
    return pissa(W - Q, r, s)


#: Starts that take their share out of the frozen weight, by peft's name in `init_lora_weights`.
MOVED: dict[str, Callable[[Tensor, int, float], tuple[Tensor, Tensor]]] = {"pissa": pissa, "olora": olora}


class MovedStart(Branch):
    r"""Mixin for a LoRA branch (A, B, s, `dropout`) that starts away from 0; list it before `LoRABranch`."""

    def start(self, W: Float[Tensor, "out in"], method: Any) -> None:
        r"""$A = A_0$ and $B = B_0$, in the adapter's precision whatever the base's is."""
        self.register_buffer("A0", torch.empty_like(self.A))  # (r, in)
        self.register_buffer("B0", torch.empty_like(self.B))  # (out, r)
        with torch.no_grad():
            A0, B0 = MOVED[method.init](W.to(self.A.dtype), method.r, self.s)
            for start, parameters in ((A0, (self.A, self.A0)), (B0, (self.B, self.B0))):
                for parameter in parameters:  # in one layout: two equal products must have the same bits
                    parameter.copy_(start)

    def forward(self, y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        r"""$h = Wx + s\,(BAx - B_0A_0x)$, where y is $Wx$; dropout is on the part that trains, as in peft."""
        BAx = F.linear(F.linear(self.dropout(x), self.A), self.B)  # (*batch, in)(in, r)(r, out)
        return y + (BAx - F.linear(F.linear(x, self.A0), self.B0)) * self.s

    @property
    def delta(self) -> Float[Tensor, "out in"]:
        r"""$\Delta W = s\,(BA - B_0A_0)$, which starts at 0."""
        return (self.B @ self.A - self.B0 @ self.A0) * self.s


class Spread:
    r"""The k directions in which the inputs of a layer vary most, from one batch after the other (incremental PCA)."""

    def __init__(self, k: int, d_in: int):
        self.k, self.n, self.total = k, 0, 0.0
        self.mean, self.kept = (torch.zeros(d_in), torch.zeros(0, d_in))  # (in,), (k, in): sigma times direction

    def add(self, X: Float[Tensor, "n in"]) -> None:
        r"""Take in n more inputs: what was kept of the earlier ones stands for them."""
        before, after = self.n, self.n + len(X)
        mean, old = X.mean(dim=0), self.mean.to(X)  # (in,)
        shift = (before * len(X) / after) ** 0.5 * (old - mean)  # what the two means are apart
        self.total += float((X - mean).square().sum() + shift.square().sum())
        _, S, Vh = torch.linalg.svd(torch.cat([X - mean, shift[None], self.kept.to(X)]), full_matrices=False)
        self.kept = S[: self.k, None] * Vh[: self.k]
        self.mean, self.n = (before * old + len(X) * mean) / after, after

    @property
    def directions(self) -> Float[Tensor, "k in"]:
        r"""Of length 1, the first first; the largest entry of each is positive, as in peft."""
        V = self.kept / self.kept.norm(dim=1, keepdim=True).clamp(min=1e-30)
        return V * V.gather(1, V.abs().argmax(dim=1, keepdim=True)).sign()

    @property
    def shares(self) -> Float[Tensor, " k"]:
        r"""$\sigma_i^2 / \lVert X \rVert_F^2$."""
        return self.kept.square().sum(dim=1) / max(self.total, 1e-30)


def ranks(shares: list[Tensor], budget: int) -> list[int]:
    r"""How many directions each layer gets, where the `budget` largest `shares` of all, (k,) each, get a rank each."""
    return [int(chosen.sum()) for chosen in largest(shares, budget)]

r"""GPTQ: round one column of W at a time, and let the columns that are left make up for what was lost.

Frantar et al. 2022 (arXiv:2210.17323), section 3. Not the weights of a row w are to come back, but its outputs:

$$\|X (w - \hat w)\|^2 = (w - \hat w)^\top H (w - \hat w), \qquad H = X^\top X$$

Column j rounded to $\hat w_j$, this is smallest if the columns F that are left, j the first of them, move by

$$\delta_F = -\frac{w_j - \hat w_j}{[H_F^{-1}]_{jj}} \, [H_F^{-1}]_{j,:}$$

With $H^{-1} = U^\top U$, U upper triangular, $[H_F^{-1}]_{j,:} / [H_F^{-1}]_{jj}$ is row j of U over its diagonal, for
every j: one factorization instead of an inverse for each column.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from coursekit.errors import CourseError


def gptq(
    W: Float[Tensor, "out in"], H: Float[Tensor, "in in"], step: Float[Tensor, "out 1"], most: int = 7
) -> Float[Tensor, "out in"]:
    r"""W in multiples of each row's step, from -most to most, so that outputs for inputs with $H = X^\top X$ stay near.

    CourseError where H is not positive definite: `hessian` makes one that is.
    """
    U, failed = torch.linalg.cholesky_ex(torch.linalg.inv_ex(H).inverse, upper=True)  # (in, in)
    if failed:
        raise CourseError("H must be positive definite: add a little to its diagonal, as hessian(X) does")
    W = W.clone()
    for j in range(W.shape[1]):
        rounded = nearest(W[:, j : j + 1], step, most)  # (out, 1)
        lost = (W[:, j : j + 1] - rounded) / U[j, j]  # (out, 1)
        W[:, j + 1 :] -= lost * U[j, j + 1 :]  # (out, left)
        W[:, j : j + 1] = rounded
    return W


def nearest(
    W: Float[Tensor, "out columns"], step: Float[Tensor, "out 1"], most: int = 7
) -> Float[Tensor, "out columns"]:
    r"""Plain rounding to the same multiples."""
    return step * (W / step).round().clamp(-most, most)


def hessian(X: Float[Tensor, "tokens in"], damping: float = 0.01) -> Float[Tensor, "in in"]:
    r"""$X^\top X$, and so much of its mean diagonal added to its diagonal: few tokens leave directions without any."""
    H = X.T @ X  # (in, tokens)(tokens, in)
    H.diagonal().add_(damping * H.diagonal().mean())
    return H

r"""HQQ: the zero point that loses least, found without a single input (Badri and Shaji 2023, "Half-Quadratic
Quantization of Large Machine Learning Models", mobiusml.github.io/hqq_blog).

An affine grid $\hat w = s\,(q - z)$ for each block, whose z may lie between integers, is to make $\sum |w - \hat w|^p$
small, p = 0.7. An auxiliary error e takes the power p apart from the rounding, and two updates alternate:

$$e \leftarrow \operatorname{sign}(d)\,\max\Bigl(|d| - \tfrac{|d|^{p-1}}{\beta},\ 0\Bigr), \quad d = w - \hat w,
\qquad z \leftarrow \operatorname{mean}\Bigl(q - \frac{w - e}{s}\Bigr)$$

e is zero below $\beta^{-1/(2-p)}$, which is 0.17 for the package's $\beta = 10$. No error of rounding to 4 bits comes
near that where weights are as small as a language model's: then the mean alone is left, least squares.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from coursekit.errors import CourseError, whole
from coursekit.quantization.affine import Affine, Grid
from coursekit.quantization.checks import floats

#: As in the package `hqq` 0.2.8: its article raises beta by a hundredth in each step, its default does not.
P, BETA, STEPS = 0.7, 10.0, 20
#: A block that reaches less far gets a step of 1, and no block a smaller step than this.
NARROW, SMALLEST = 1e-4, 5e-5


def shrink(d: Float[Tensor, "blocks block"], beta: float = BETA) -> Float[Tensor, "blocks block"]:
    r"""About the e that makes $|e|^p + \frac{\beta}{2} (d - e)^2$ small, for each d alone."""
    size = d.abs()
    return d.sign() * (size - size.pow(P - 1) / beta).clamp(min=0)


def quantize_hqq(x: Shaped[Tensor, "*shape"], bits: int = 4, block: int = 64) -> Affine:
    r"""x in integers of `bits` bits with a step and a fitted zero point for each `block` of values of the flattened
    tensor, both in 16 bits: bits + 32 / block for each value.

    Before they are rounded to 16 bits, codes, steps and zero points are to the bit those of `hqq` (axis 1).

    CourseError for settings that make no sense, a tensor that is no whole number of blocks, infinities, NaN, and a
    block whose step or zero point fp16 cannot hold.
    """
    bits, block = whole("bits", bits, least=2, most=8, such_as=4), whole("block", block, least=2, such_as=64)
    if floats("x", x).numel() == 0 or x.numel() % block:
        raise CourseError(f"x must hold a multiple of {block} values, such as {4 * block}; got {x.numel()}.")
    w = x.detach().float().reshape(-1, block)  # (blocks, block)
    low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)  # (blocks, 1)
    inverse = (2**bits - 1) / (high - low)  # of the step s
    inverse = torch.where(high - low <= NARROW, 1.0, inverse).clamp(max=1 / SMALLEST)
    zero = fitted(w, inverse, -low * inverse, 2**bits - 1)
    codes = (w * inverse + zero).round().clamp(0, 2**bits - 1).to(torch.uint8)
    step, zero = ((1 / inverse).half().float(), zero.half().float())
    if not (step.isfinite() & zero.isfinite()).all():
        raise CourseError("a step or a zero point is beyond fp16: scale x, or repair infinities and NaN")
    return Affine(codes.view(x.shape), Grid(step, zero, bits), block, x.dtype)


def fitted(
    w: Float[Tensor, "blocks block"], inverse: Float[Tensor, "blocks 1"], zero: Float[Tensor, "blocks 1"], most: int
) -> Float[Tensor, "blocks 1"]:
    r"""The zero points after at most `STEPS` rounds, or the first that does not make the mean |d| smaller."""
    least = torch.inf
    for _ in range(STEPS):
        q = (w * inverse + zero).round().clamp(0, most)  # (blocks, block)
        d = w - (q - zero) / inverse
        zero = (q - (w - shrink(d)) * inverse).mean(1, keepdim=True)
        if (error := d.abs().mean().item()) >= least:
            break
        least = error
    return zero

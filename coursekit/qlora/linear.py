r"""A frozen linear layer whose weight lies in a few bits: unpacked to be used, twice a step, and dropped again.

Dettmers et al. 2023 (QLoRA, arXiv:2305.14314), section 3, equation 5, without the adapter:

$$y = x \operatorname{dequantize}(q)^\top + b, \qquad \frac{\partial L}{\partial x}
  = \frac{\partial L}{\partial y} \operatorname{dequantize}(q)$$
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from coursekit.autocast import autocast_dtype, without_autocast
from coursekit.errors import CourseError, flag
from coursekit.quantization.blockwise import Blockwise, quantize_blockwise
from coursekit.quantization.bnb import from_state_dict, to_state_dict
from coursekit.quantization.double import Double


class PlainLinear4bit(nn.Module):
    r"""The equation as it stands. Autograd keeps the unpacked weight until the backward pass; `Linear4bit` does not."""

    def __init__(self, q: Blockwise, b: Float[Tensor, " out"] | None = None):
        super().__init__()
        self.q, self.b = q, b

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        W = self.q.dequantize().to(x.dtype)  # (out, in)
        return F.linear(x, W, self.b)  # (*batch, in)(in, out) -> (*batch, out)


class QuantizedProduct(torch.autograd.Function):
    r"""$xW^\top + b$ for a W that exists only while it is multiplied with.

    Between forward and backward autograd keeps no tensor for it: the codes belong to the layer, and x would be
    needed for the gradient of W alone.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "*batch in"], q: Blockwise, b: Float[Tensor, " out"] | None
    ) -> Float[Tensor, "*batch out"]:
        ctx.q = q
        return F.linear(x, q.dequantize().to(x.dtype), b)  # (*batch, in)(in, out) -> (*batch, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, "*batch out"]):
        dx = db = None
        if ctx.needs_input_grad[0]:
            dx = g @ ctx.q.dequantize().to(g.dtype)  # (*batch, out)(out, in) -> (*batch, in)
        if ctx.needs_input_grad[2]:
            db = g.reshape(-1, g.shape[-1]).sum(0)
        return dx, None, db


class Linear4bit(nn.Linear):
    r"""`nn.Linear`, or GPT-2's `Conv1D`, with its weight as block-wise codes: four bits, or any other `Blockwise`.

    weight: codes of W, (out, in); of a Conv1D, which stores $W^\top$, as well. compute_dtype: the precision of the
    product, None for that of the input. The output has the precision of the input. bias: of any precision, may train.

    What is stored are buffers, in their own precision whatever the model is brought to. In a state dict they have
    bitsandbytes' keys.
    """

    def __init__(
        self, weight: Blockwise, bias: Float[Tensor, " out"] | None = None,
        compute_dtype: torch.dtype | None = None, conv1d: bool = False,
    ):  # fmt: skip
        super(nn.Linear, self).__init__()  # not nn.Linear's own: it would make a dense weight
        if len(weight.shape) != 2:
            raise CourseError(f"a weight of shape {tuple(weight.shape)} is no matrix: give codes of (out, in)")
        self.out_features, self.in_features = weight.shape
        self.quantized = weight
        if bias is not None and not isinstance(bias, nn.Parameter):
            bias = nn.Parameter(bias, requires_grad=False)
        self.register_parameter("bias", bias)
        self.compute_dtype, self.conv1d = floating("compute_dtype", compute_dtype), flag("conv1d", conv1d)

    @classmethod
    def from_linear(
        cls, layer: nn.Module, code: str = "nf4", block: int = 64, double: bool = True,
        compute_dtype: torch.dtype | None = None,
    ) -> Linear4bit:  # fmt: skip
        r"""The layer with its weight quantized; `layer` is left as it is, and the bias is shared with it.

        Raises CourseError for anything but a linear layer with a dense weight.
        """
        if isinstance(layer, Linear4bit) or not isinstance(layer, (nn.Linear, Conv1D)):
            raise CourseError(f"{type(layer).__name__} has no dense weight to quantize: give an nn.Linear or a Conv1D")
        conv1d = isinstance(layer, Conv1D)
        W = layer.weight.t() if conv1d else layer.weight
        made = cls(quantize_blockwise(W, code, block, double), layer.bias, compute_dtype, conv1d)
        return made.train(layer.training)

    @property
    def quantized(self) -> Blockwise:
        r"""The codes with their scales, as the buffers are now."""
        absmax = self.absmax
        if self.absmax_scale is not None:
            absmax = Double(absmax, self.absmax_scale, self.absmax_offset, self.absmax_block)
        return Blockwise(self.packed, absmax, self.code, self.block, self.shape, self.weight_dtype)

    @quantized.setter
    def quantized(self, q: Blockwise) -> None:
        double = q.absmax if isinstance(q.absmax, Double) else None
        tensors = {
            "packed": q.packed,
            "absmax": double.codes if double else q.absmax,
            "absmax_scale": double.absmax if double else None,
            "absmax_offset": double.offset if double else None,
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)  # the state dict has them in another form
        self.absmax_block = double.block if double else 0
        self.code, self.block, self.shape, self.weight_dtype = q.code, q.block, q.shape, q.dtype

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        r"""W, unpacked anew each time, for code that looks at `layer.weight`."""
        return self.quantized.dequantize()

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        output = autocast_dtype(x) or x.dtype
        dtype = self.compute_dtype or output
        bias = None if self.bias is None else self.bias.to(dtype)
        with without_autocast(x):  # which would bring the product to its own precision
            return QuantizedProduct.apply(x.to(dtype), self.quantized, bias).to(output)

    def dense(
        self, weight: Float[Tensor, "out in"] | None = None, bias: Float[Tensor, " out"] | None = None
    ) -> nn.Linear | Conv1D:
        r"""The ordinary layer again, frozen: with the unpacked weight, or with `weight` (and `bias`) in its place."""
        W = self.weight if weight is None else weight
        b = self.bias if bias is None else bias
        with torch.device("meta"):  # its own weight and bias are not wanted
            layer = (
                Conv1D(self.out_features, self.in_features)
                if self.conv1d
                else nn.Linear(self.in_features, self.out_features, bias=b is not None)
            )
        layer.weight = nn.Parameter((W.t() if self.conv1d else W).contiguous(), requires_grad=False)
        if b is not None:
            layer.bias = b if isinstance(b, nn.Parameter) else nn.Parameter(b, requires_grad=False)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        q = self.quantized
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"code={q.code}, block={q.block}, double={isinstance(q.absmax, Double)}, bits={q.bits:.3f}"
        )

    # What `nn.Module` does with tensors -------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Linear4bit:
        before = self.quantized
        super()._apply(fn, recurse)
        # What is unpacked follows the model, as a dense weight would. Codes and scales are moved and never rounded.
        probe = fn(torch.empty(0, dtype=before.dtype, device=before.packed.device))
        self.quantized = replace(before, dtype=probe.dtype).to(probe.device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # the bias
        destination.update(to_state_dict(self.quantized, f"{prefix}weight"))

    def _load_from_state_dict(
        self, state: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str],
        unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        name = f"{prefix}weight"
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)  # the bias
        unexpected[:] = [key for key in unexpected if key != name and not key.startswith(f"{name}.")]
        if name not in state:
            missing.append(name)
            return
        if state[name].is_floating_point() and f"{name}.absmax" not in state:
            errors.append(
                f"{name} is dense, and this layer is in codes: load it into a dense model and call quantize_model"
            )
            return
        try:
            q = from_state_dict(state, name)
        except CourseError as error:
            errors.append(str(error))
            return
        if q.shape != self.shape:
            errors.append(f"{name} is {tuple(q.shape)} in the state dict and {tuple(self.shape)} here")
            return
        self.quantized = copy.deepcopy(q).to(self.packed.device)  # the state dict keeps its own tensors


def floating(name: str, dtype: Any) -> torch.dtype | None:
    r"""`dtype` where it is None or one of floating-point numbers; else a CourseError."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise CourseError(f"{name} must be a floating-point dtype, such as torch.bfloat16; got {dtype!r}.")
    return dtype

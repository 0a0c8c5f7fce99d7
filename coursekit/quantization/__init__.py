r"""Quantization: fewer bits a weight, from affine integers to NF4 and the 8-bit optimizer."""

from coursekit.quantization.blockwise import Blockwise, dequantize, quantize_blockwise
from coursekit.quantization.double import Double, quantize_absmax
from coursekit.quantization.dynamic import dequantize_8bit, dynamic_map, quantize_8bit

__all__ = [
    "Blockwise",
    "Double",
    "dequantize",
    "dequantize_8bit",
    "dynamic_map",
    "quantize_8bit",
    "quantize_absmax",
    "quantize_blockwise",
]

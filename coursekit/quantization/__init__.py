r"""Quantization: fewer bits a weight, from affine integers to NF4 and the 8-bit optimizer."""

from coursekit.quantization.adam8bit import AdamW8bit
from coursekit.quantization.affine import Affine, Grid, grid, quantize_affine
from coursekit.quantization.blockwise import Blockwise, dequantize, quantize_blockwise
from coursekit.quantization.code_error import Error, expected_error, measured_error
from coursekit.quantization.codes import CODES, code
from coursekit.quantization.double import Double, quantize_absmax
from coursekit.quantization.dynamic import dequantize_8bit, dynamic_map, quantize_8bit
from coursekit.quantization.gguf import decode_q4_1, stored_q4_1, unpack_q4_1
from coursekit.quantization.linear import Linear4bit
from coursekit.quantization.load import load_quantized
from coursekit.quantization.merge import MergeError, merge_error
from coursekit.quantization.model import quantize_model
from coursekit.quantization.paged import PagedAdamW, paged_adamw
from coursekit.quantization.pager import Pager, Traffic
from coursekit.quantization.save import save_quantized

__all__ = [
    "CODES",
    "AdamW8bit",
    "Affine",
    "Blockwise",
    "Double",
    "Error",
    "Grid",
    "Linear4bit",
    "MergeError",
    "PagedAdamW",
    "Pager",
    "Traffic",
    "code",
    "decode_q4_1",
    "dequantize",
    "dequantize_8bit",
    "dynamic_map",
    "expected_error",
    "grid",
    "load_quantized",
    "measured_error",
    "merge_error",
    "paged_adamw",
    "quantize_8bit",
    "quantize_absmax",
    "quantize_affine",
    "quantize_blockwise",
    "quantize_model",
    "save_quantized",
    "stored_q4_1",
    "unpack_q4_1",
]

r"""Quantization: numbers in fewer bits, from affine integers to NF4 and double quantization.

Open `affine.py` first, then `blockwise.py`. Layers and models in 4 bits are in `coursekit.qlora`.
"""

from coursekit.quantization.affine import Affine, Grid, grid, quantize_affine
from coursekit.quantization.blockwise import Blockwise, dequantize, quantize_blockwise
from coursekit.quantization.code_error import Error, measured_error
from coursekit.quantization.codes import CODES, code
from coursekit.quantization.double import Double, quantize_absmax
from coursekit.quantization.dynamic import dequantize_8bit, dynamic_map, quantize_8bit
from coursekit.quantization.gguf import decode_q4_1, stored_q4_1, unpack_q4_1
from coursekit.quantization.hqq import quantize_hqq
from coursekit.quantization.microscaling import Microscaled, quantize_microscaling

__all__ = [
    "CODES", "Affine", "Blockwise", "Double", "Error", "Grid", "Microscaled", "code", "decode_q4_1", "dequantize",
    "dequantize_8bit", "dynamic_map", "grid", "measured_error", "quantize_8bit", "quantize_absmax",
    "quantize_affine", "quantize_blockwise", "quantize_hqq", "quantize_microscaling", "stored_q4_1", "unpack_q4_1",
]  # fmt: skip

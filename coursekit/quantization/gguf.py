r"""Q4_1, the format in which llama.cpp stores the course's own decoder: affine, 4 bits, blocks of 32, opened by hand.

A block of 32 weights is 20 bytes, 5 bits a weight: scale d and minimum m in fp16, then 16 bytes of two codes each.

$$\hat x_i = d\,q_i + m$$

The low nibbles are weights 0 to 15, the high ones 16 to 31. Where an affine grid has a whole zero point, m is any
number, so 0 need not be among the values. Layout: `block_q4_1` in ggml (github.com/ggml-org/ggml).
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from struct import unpack_from
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from coursekit.errors import CourseError, one_of

BLOCK, BYTES = 32, 20


@dataclass(frozen=True)
class Q4_1:
    r"""Blocks taken apart: 2 + 2 bytes and 32 codes for each."""

    d: Float16[Tensor, " blocks"]  # the step from one code to the next
    m: Float16[Tensor, " blocks"]  # what code 0 stands for
    codes: UInt8[Tensor, "blocks 32"]

    def dequantize(self) -> Float[Tensor, "blocks 32"]:
        r"""d q + m in fp32."""
        return self.d.float()[:, None] * self.codes + self.m.float()[:, None]


def unpack_q4_1(stored: UInt8[Tensor, "*rows bytes"]) -> Q4_1:
    r"""The fields of the blocks that follow one another in `stored`.

    Raises CourseError where that is no whole number of blocks, 20 bytes each.
    """
    if stored.shape[-1] % BYTES:
        raise CourseError(
            f"{stored.shape[-1]} bytes hold no whole number of Q4_1 blocks: a block of {BLOCK} weights is {BYTES} bytes"
        )
    blocks = stored.reshape(-1, BYTES)
    d, m = blocks[:, :4].contiguous().view(torch.float16).unbind(1)
    low, high = blocks[:, 4:] & 0x0F, blocks[:, 4:] >> 4
    return Q4_1(d, m, torch.cat([low, high], 1))


def decode_q4_1(stored: UInt8[Tensor, "*rows bytes"]) -> Float[Tensor, "*rows width"]:
    r"""The weights in `stored`, row by row, fp32."""
    width = stored.shape[-1] // BYTES * BLOCK
    return unpack_q4_1(stored).dequantize().view(*stored.shape[:-1], width)


def stored_q4_1(path: str | PathLike, names: list[str]) -> dict[str, UInt8[Tensor, "out bytes"]]:
    r"""The bytes of Q4_1 tensors, by name ("blk.0.ffn_up.weight"), as they lie in the GGUF file `path`.

    Only where they lie is asked of the `gguf` library. Raises CourseError for a file that is none, a name that is not
    in it, and a tensor in another format.
    """
    if not Path(path).is_file():
        raise CourseError(f"there is no file {path}: coursekit.models.sources.smollm2_gguf() gives the decoder's")
    try:
        tensors = {t.name: t for t in _reader()(path).tensors}
    except Exception as error:  # the library fails in many ways on what is no GGUF
        raise CourseError(f"{path} cannot be read as GGUF: {' '.join(str(error).split())}") from error
    for name in names:
        one_of("tensor", name, tensors)
        if tensors[name].tensor_type.name != "Q4_1":
            raise CourseError(f"{name} is stored as {tensors[name].tensor_type.name}; only Q4_1 is read here")
    return {name: torch.tensor(tensors[name].data) for name in names}


def _reader() -> Any:
    r"""The library's reader without the lists in a file's header, such as a vocabulary, which it takes seconds for."""
    from gguf import GGUFEndian, GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list, list, list]:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            order = ">" if self.endianess == GGUFEndian.BIG else "<"
            kind, length = unpack_from(f"{order}IQ", self.data, orig_offs)
            end = orig_offs + 12  # kind and length are 4 and 8 bytes
            if kind in self.gguf_scalar_to_np:
                end += length * np.dtype(self.gguf_scalar_to_np[kind]).itemsize
            elif kind == GGUFValueType.STRING:
                for _ in range(length):
                    end += 8 + unpack_from(f"{order}Q", self.data, end)[0]  # the length of a text, and the text
            else:
                return super()._get_field_parts(orig_offs, raw_type)
            return end - orig_offs, [], [], [GGUFValueType.ARRAY]

    return Reader

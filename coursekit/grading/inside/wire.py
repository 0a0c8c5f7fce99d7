r"""Values as JSON: questions on their way into the box, answers on their way out. Never pickle.

A value is encoded by its exact type. What has no encoding leaves as its type's name alone: an object that equals
everything is `{"other": "Equal"}` by the time anybody compares it.
"""

from __future__ import annotations

import base64
import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F

#: Bytes that one tensor, and characters that one text, may have.
MOST_BYTES = 16 * 2**20
MOST_TEXT = 100_000
MOST_DEPTH = 8
MOST_ITEMS = 100_000

_DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    )
}  # fmt: skip


class Unreadable(ValueError):
    r"""Bytes that are no encoded value, or one above the limits."""


def encode(value: Any, depth: int = 0) -> Any:
    r"""`value` as something that json can write. Raises Unreadable for one above the limits."""
    if depth > MOST_DEPTH:
        raise Unreadable(f"it is nested deeper than {MOST_DEPTH} levels")
    kind = type(value)
    if value is None or kind is bool:
        return value
    if value is ...:
        return {"dots": True}
    if kind is int:
        if value.bit_length() > 4096:
            raise Unreadable("it is a whole number of more than 4,096 bits")
        return {"int": str(value)}
    if kind is float:
        return {"float": value.hex()}
    if kind is str:
        if len(value) > MOST_TEXT:
            raise Unreadable(f"it is a text of more than {MOST_TEXT:,} characters")
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, np.generic) and kind.__module__ == "numpy":
        item = value.item()
        return {"number": encode(item, depth + 1)} if type(item) in (bool, int, float) else _other(kind)
    if kind in (tuple, list):
        if len(value) > MOST_ITEMS:
            raise Unreadable(f"it holds more than {MOST_ITEMS:,} values")
        return {kind.__name__: [encode(v, depth + 1) for v in value]}
    if kind is dict:
        return {"dict": [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in value.items()]}
    if kind in (torch.Tensor, torch.nn.Parameter):
        return _tensor(value)
    return _other(kind)


def encode_trained(value: Any, most: int) -> Any:
    r"""What a training returns: a dictionary of tensors as one safetensors file of at most `most` bytes."""
    kinds = (torch.Tensor, torch.nn.Parameter)
    if type(value) is not dict or not all(type(k) is str and type(v) in kinds for k, v in value.items()):
        return encode(value)
    if sum(v.numel() * v.element_size() for v in value.values()) > most:
        raise Unreadable("its tensors are too large")
    if any(v.layout is not torch.strided or v.is_meta for v in value.values()):
        raise Unreadable("one of its tensors cannot be stored")
    apart = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in value.items()}
    return {"safetensors": base64.b64encode(safetensors.torch.save(apart)).decode()}


def encode_argument(value: Any) -> Any:
    r"""As `encode`, and functions of the checks too, by their source: a loss that a student differentiates."""
    if isinstance(value, functools.partial):
        return {"partial": [encode_argument(value.func), [encode_argument(a) for a in value.args]]}
    if inspect.isfunction(value):
        return {"function": [value.__name__, inspect.getsource(value)]}
    if type(value) in (tuple, list):
        return {type(value).__name__: [encode_argument(v) for v in value]}
    return encode(value)


def decode(data: Any, *, code: bool = False, depth: int = 0) -> Any:
    r"""The value that `encode` was given; Unreadable where `data` is nothing of the kind.

    code: also functions, which runs their source: for questions, which come from the grader.
    """
    if depth > MOST_DEPTH + 2:
        raise Unreadable("nested too deeply")
    if data is None or type(data) in (bool, str):
        return data
    if type(data) is not dict or len(data) != 1:
        raise Unreadable("no encoded value")
    ((kind, given),) = data.items()
    inner = functools.partial(decode, code=code, depth=depth + 1)
    if kind == "dots":
        return ...
    if kind == "int" and _text(given, r"-?\d{1,1300}"):
        return int(given)
    if kind == "float" and type(given) is str and len(given) < 40:
        try:
            return float.fromhex(given)
        except (ValueError, OverflowError) as error:
            raise Unreadable("no number") from error
    if kind == "number":
        item = inner(given)
        if type(item) in (bool, int, float) and (type(item) is not int or item.bit_length() <= 64):
            return np.asarray(item)[()]
    if kind in ("tuple", "list") and type(given) is list and len(given) <= MOST_ITEMS:
        return {"tuple": tuple, "list": list}[kind](inner(v) for v in given)
    if kind == "dict" and type(given) is list and all(type(p) is list and len(p) == 2 for p in given):
        try:
            return {inner(k): inner(v) for k, v in given}
        except TypeError as error:  # a key that is a list
            raise Unreadable("no dictionary") from error
    if kind == "tensor" and type(given) is dict:
        return _tensor_from(given)
    if kind == "safetensors" and type(given) is str and len(given) < 2 * MOST_BYTES:
        return _trained_from(given)
    if kind == "other" and _text(given, r"\w{1,40}"):
        return type(given, (), {})()  # all that a comparison may learn of it is the name of its type
    if code and kind == "partial":
        return functools.partial(inner(given[0]), *[inner(a) for a in given[1]])
    if code and kind == "function":
        return _function(*given)
    raise Unreadable("no encoded value")


def _tensor(value: torch.Tensor) -> Any:
    value = value.detach()
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in _DTYPES or value.layout is not torch.strided or value.is_meta:
        return {"other": "unusual_tensor"}
    if value.numel() * value.element_size() > MOST_BYTES:
        raise Unreadable(f"it is a tensor of more than {MOST_BYTES // 2**20} MB")
    flat = value.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    content = base64.b64encode(flat.numpy().tobytes()).decode()
    return {"tensor": {"dtype": dtype, "shape": list(value.shape), "bytes": content}}


def _tensor_from(given: dict[str, Any]) -> torch.Tensor:
    dtype, shape, content = given.get("dtype"), given.get("shape"), given.get("bytes")
    if type(dtype) is not str or dtype not in _DTYPES or type(content) is not str or type(shape) is not list:
        raise Unreadable("no tensor")
    if len(shape) > 16 or not all(type(n) is int and 0 <= n <= MOST_BYTES for n in shape):
        raise Unreadable("no shape")
    try:
        raw = bytearray(base64.b64decode(content, validate=True))
    except ValueError as error:
        raise Unreadable("no base64") from error
    kind = _DTYPES[dtype]
    if len(raw) > MOST_BYTES or len(raw) != math.prod(shape) * kind.itemsize:
        raise Unreadable("a tensor of another size than its shape says")
    if not raw:
        return torch.empty(shape, dtype=kind)
    if kind is torch.bool:  # a byte that is neither 0 nor 1 must not become a third truth value
        return (torch.frombuffer(raw, dtype=torch.uint8) != 0).reshape(shape)
    return torch.frombuffer(raw, dtype=kind).clone().reshape(shape)


def _trained_from(given: str) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(base64.b64decode(given, validate=True))
    except Exception as error:  # its own SafetensorError, a dtype that PyTorch lacks, no base64
        raise Unreadable("no safetensors") from error


def _function(name: str, source: str) -> Callable[..., Any]:
    space: dict[str, Any] = {"torch": torch, "F": F, "math": math, "Tensor": torch.Tensor, "Callable": Callable}
    exec(compile("from __future__ import annotations\n" + source, "<question>", "exec"), space)
    return space[name]


def _other(kind: type) -> dict[str, str]:
    name = type.__getattribute__(kind, "__name__")
    return {"other": re.sub(r"\W", "_", str(name))[:40] or "object"}


def _text(given: Any, pattern: str) -> bool:
    return type(given) is str and re.fullmatch(pattern, given, re.ASCII) is not None

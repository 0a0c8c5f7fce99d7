r"""Whether two values are the same, by type, shape and value, and if not, in which words to say so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

#: As near as fp32 comes to a reference in fp64 after a few operations: a student's `torch.zeros` is fp32, whatever
#: the answer is turned into in the end.
SINGLE = 1e-5


def difference(given: Any, expected: Any, tolerance: float) -> str | None:
    r"""None where `given` is `expected` up to `tolerance` (relative, and absolute near 0); else what is wrong.

    Only exact types count, so that no class of the student's own decides what equals what.
    """
    if isinstance(given, np.generic):  # a number of NumPy's, as `np.prod` gives
        given = given.item()
    if isinstance(expected, torch.Tensor):
        return _tensors(given, expected, tolerance)
    if isinstance(expected, bool) or expected is None or isinstance(expected, str):
        if type(given) is not type(expected):
            return f"it returns {_kind(given)}, expected {_kind(expected)}"
        return None if given == expected else f"it returns {given!r}, expected another value"
    if isinstance(expected, (int, float)):
        return _numbers(given, expected, tolerance)
    if isinstance(expected, tuple):
        return _tuples(given, expected, tolerance)
    raise TypeError(f"a reference answer may not be {_kind(expected)}")


def _tensors(given: Any, expected: torch.Tensor, tolerance: float) -> str | None:
    if type(given) not in (torch.Tensor, torch.nn.Parameter):
        return f"it returns {_kind(given)}, expected a tensor of shape {tuple(expected.shape)}"
    given = given.detach()
    if given.shape != expected.shape:
        turned = expected.dim() > 1 and given.shape == expected.mT.shape
        also = " (transposed?)" if turned else ""
        return f"its shape is {tuple(given.shape)}, expected {tuple(expected.shape)}{also}"
    if expected.dtype is torch.bool and given.dtype is not torch.bool:
        return f"it holds numbers ({str(given.dtype).removeprefix('torch.')}), expected True and False"
    if not torch.isfinite(given.double()).all():
        return "it holds NaN or infinity"
    if expected.is_floating_point():
        tolerance = max(tolerance, SINGLE)
    gap = (given.double() - expected.double()).abs()
    if bool((gap <= tolerance * (1 + expected.double().abs())).all()):
        return None
    return f"the shape is right, the values are not: the largest difference is {gap.max().item():.3g}"


def _numbers(given: Any, expected: float, tolerance: float) -> str | None:
    if isinstance(given, torch.Tensor) and given.numel() == 1:
        given = given.item()
    if type(given) not in (int, float):
        return f"it returns {_kind(given)}, expected a number"
    if math.isfinite(given) and abs(given - expected) <= tolerance * (1 + abs(expected)):
        return None
    return f"it returns {_written(given)} where {_written(expected)} is right"


def _tuples(given: Any, expected: tuple[Any, ...], tolerance: float) -> str | None:
    if type(given) not in (tuple, list):
        return f"it returns {_kind(given)}, expected {len(expected)} values"
    if len(given) != len(expected):
        return f"it returns {len(given)} values, expected {len(expected)}"
    for i, (one, other) in enumerate(zip(given, expected, strict=True), start=1):
        found = difference(one, other, tolerance)
        if found is not None:
            return f"value {i} of {len(expected)}: {found}"
    return None


def _written(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,.6g}"


def _kind(value: Any) -> str:
    return {"int": "a whole number", "float": "a number", "NoneType": "nothing"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )

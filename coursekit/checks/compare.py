r"""Whether two values are the same, by type, shape and value, and if not, in which words to say so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

#: As near as fp32 comes to a reference in fp64 after a few operations: a student's `torch.zeros` is fp32, whatever
#: the answer is turned into in the end.
SINGLE = 1e-5
#: What rounding in fp64 leaves where the right number is 0.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Comparison:
    r"""How two values are compared.

    tolerance: relative, entry by entry; 0 asks for the same number. dtype: that of a tensor counts.
    signed_zeros: -0.0 is not 0.0. discreet: say what is wrong without writing out either value.
    """

    tolerance: float
    dtype: bool = False
    signed_zeros: bool = False
    discreet: bool = False

    def difference(self, given: Any, expected: Any) -> str | None:
        r"""None where `given` is `expected`; else what is wrong.

        Only exact types count, so that no class of the student's own decides what equals what.
        """
        if isinstance(given, np.generic):  # a number of NumPy's, as `np.prod` gives
            given = given.item()
        if isinstance(expected, torch.Tensor):
            return self._tensors(given, expected)
        if isinstance(expected, bool) or expected is None or isinstance(expected, str):
            if type(given) is not type(expected):
                return f"it returns {_kind(given)}, expected {_kind(expected)}"
            if given == expected:
                return None
            return (
                "it returns another value"
                if self.discreet
                else f"it returns {_written(given)}, expected another"
            )
        if isinstance(expected, (int, float)):
            return self._numbers(given, expected)
        if isinstance(expected, tuple):
            return self._tuples(given, expected)
        raise TypeError(f"a reference answer may not be {_kind(expected)}")

    def _tensors(self, given: Any, expected: torch.Tensor) -> str | None:
        if type(given) not in (torch.Tensor, torch.nn.Parameter):
            return f"it returns {_kind(given)}, expected a tensor of shape {tuple(expected.shape)}"
        given, expected = given.detach(), expected.detach()
        if given.shape != expected.shape:
            turned = expected.dim() > 1 and given.shape == expected.mT.shape
            also = " (transposed?)" if turned else ""
            return f"its shape is {tuple(given.shape)}, expected {tuple(expected.shape)}{also}"
        if expected.dtype is torch.bool and given.dtype is not torch.bool:
            return f"it holds numbers ({_name(given.dtype)}), expected True and False"
        if given.is_complex() and not expected.is_complex():
            return f"it holds complex numbers ({_name(given.dtype)}), expected real ones"
        if self.dtype and given.dtype is not expected.dtype:
            return f"its dtype is {_name(given.dtype)}, expected {_name(expected.dtype)}"
        wide = torch.complex128 if expected.is_complex() else torch.float64
        exact = not (expected.is_floating_point() or expected.is_complex())
        if exact and given.dtype in _WHOLE:  # int64 holds numbers that fp64 does not
            wide = torch.int64
        given, expected = given.to(wide), expected.to(wide)
        if not torch.isfinite(given).all():
            return "it holds NaN or infinity"
        gap = (given - expected).abs()
        allowed = 0 if exact else max(self.tolerance, SINGLE) * (expected.abs() + _floor(expected))
        same = gap <= allowed
        if self.signed_zeros and not exact:
            same &= (expected != 0) | (_signs(given) == _signs(expected)).all(-1)
        if bool(same.all()):
            return None
        if self.discreet:
            return "the shape is right, the values are not"
        if expected.dim() == 1 and not expected.is_complex() and not bool((gap <= allowed).all()):
            moved = (given.sort().values - expected.sort().values).abs()
            if bool((moved <= torch.as_tensor(allowed).min()).all()):
                return "the values are right, but not in their order"
        return f"the shape is right, the values are not: the largest difference is {gap.max().item():.3g}"

    def _numbers(self, given: Any, expected: float) -> str | None:
        if type(given) is torch.Tensor and given.numel() == 1:
            given = given.item()
        if type(given) not in (int, float):
            return f"it returns {_kind(given)}, expected a number"
        if self._near(given, expected):
            return None
        if self.discreet:
            return "it returns a number, but not the right one"
        return f"it returns {_written(given)} where {_written(expected)} is right"

    def _near(self, given: float, expected: float) -> bool:
        if isinstance(expected, int) or self.tolerance == 0:
            return given == expected
        try:
            near = abs(given - expected) <= self.tolerance * abs(expected) + ROUNDING  # False for NaN
        except OverflowError:  # a whole number beyond every float
            return False
        signs = math.copysign(1, given) == math.copysign(1, expected) if self.signed_zeros else True
        return near and (expected != 0 or signs)

    def _tuples(self, given: Any, expected: tuple[Any, ...]) -> str | None:
        if type(given) not in (tuple, list):
            return f"it returns {_kind(given)}, expected {len(expected)} values"
        if len(given) != len(expected):
            return f"it returns {len(given)} values, expected {len(expected)}"
        for i, (one, other) in enumerate(zip(given, expected, strict=True), start=1):
            found = self.difference(one, other)
            if found is not None:
                return f"value {i} of {len(expected)}: {found}"
        return None


_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _floor(expected: torch.Tensor) -> float:
    r"""What an entry near 0 counts as, in relative terms: the middle size among the others, and at most 1.

    An entry that came out small by cancellation has the rounding errors of its terms. The largest size would not do:
    beside one large entry nothing else would be looked at.
    """
    sizes = expected.abs().flatten()
    sizes = sizes[sizes > 0]
    return min(1.0, sizes.median().item()) if len(sizes) else 1.0


def _signs(values: torch.Tensor) -> torch.Tensor:
    parts = torch.view_as_real(values) if values.is_complex() else values[..., None]
    return parts.signbit()


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) < 10**30 else "a whole number of more than 30 digits"
    return repr(value) if len(str(value)) <= 60 else f"{str(value)[:60]!r} and more"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kind(value: Any) -> str:
    name = type(value).__name__[:60]
    return {"int": "a whole number", "float": "a number", "NoneType": "nothing"}.get(name, f"a {name}")

r"""Whether two values are the same, by type, shape and value, and if not, in which words to say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

#: As near as fp32 comes to a reference in fp64 after a few operations: a student's `torch.zeros` is fp32, whatever
#: the answer is turned into in the end.
SINGLE = 1e-5
#: What rounding in fp64 leaves where the right number is 0.
ROUNDING = 1e-12


#: (comparison, what is given, the case, the course's own answer) -> None, or what is wrong.
Judge = Callable[["Comparison", Any, tuple[Any, ...], Any], "str | None"]


@dataclass(frozen=True)
class Own:
    r"""What an answer is held against where many are right: the case, and the course's own answer to it."""

    case: tuple[Any, ...]
    answer: Any


@dataclass(frozen=True)
class Comparison:
    r"""How two values are compared.

    tolerance: relative, entry by entry; 0 asks for the same number. dtype: that of a tensor counts.
    discreet: say what is wrong without writing out either value. judge: what decides where many answers are right.
    parts: what each value of an answer of several is called.
    """

    tolerance: float
    dtype: bool = False
    discreet: bool = False
    judge: Judge | None = None
    parts: tuple[str, ...] = ()

    def difference(self, given: Any, expected: Any) -> str | None:
        r"""None where `given` is `expected`; else what is wrong.

        Only exact types count, so that no class of the student's own decides what equals what.
        """
        if self.judge and isinstance(expected, Own):
            given = given.answer if isinstance(given, Own) else given
            return self.judge(self, given, expected.case, expected.answer)
        if isinstance(given, np.generic):  # a number of NumPy's, as `np.prod` gives
            given = given.item()
        if isinstance(expected, torch.Tensor):
            return self._tensors(given, expected)
        if isinstance(expected, bool) or expected is None or isinstance(expected, str):
            if type(given) is not type(expected):
                return f"it returns {_kind(given)}, expected {_kind(expected)}"
            if given == expected:
                return None
            return "it returns another value" if self.discreet else f"it returns {_written(given)}, expected another"
        if isinstance(expected, (int, float)):
            return self._numbers(given, expected)
        if isinstance(expected, tuple):
            return self._tuples(given, expected)
        raise TypeError(f"a reference answer may not be {_kind(expected)}")

    def exactly(self, numbers: str) -> str:
        r"""`numbers` where values may be written out, else nothing."""
        return "" if self.discreet else numbers

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
        if given.is_complex():
            return f"it holds complex numbers ({_name(given.dtype)}), expected real ones"
        if self.dtype and given.dtype is not expected.dtype:
            return f"its dtype is {_name(given.dtype)}, expected {_name(expected.dtype)}"
        exact = not expected.is_floating_point()
        wide = torch.int64 if exact and given.dtype in _WHOLE else torch.float64  # which holds fewer whole numbers
        given, expected = given.to(wide), expected.to(wide)
        if not torch.isfinite(given).all():
            return "it holds NaN or infinity"
        gap = (given - expected).abs()
        allowed = 0 if exact else max(self.tolerance, SINGLE) * (expected.abs() + _floor(expected))
        if bool((gap <= allowed).all()):
            return None
        if self.discreet:
            return "the shape is right, the values are not"
        if expected.dim() == 1:
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
            return abs(given - expected) <= self.tolerance * abs(expected) + ROUNDING  # False for NaN
        except OverflowError:  # a whole number beyond every float
            return False

    def _tuples(self, given: Any, expected: tuple[Any, ...]) -> str | None:
        if type(given) not in (tuple, list):
            return f"it returns {_kind(given)}, expected {len(expected)} values"
        if len(given) != len(expected):
            return f"it returns {len(given)} values, expected {len(expected)}"
        for i, (one, other) in enumerate(zip(given, expected, strict=True), start=1):
            found = self.difference(one, other)
            if found is not None:
                called = f" ({self.parts[i - 1]})" if len(self.parts) == len(expected) else ""
                return f"value {i} of {len(expected)}{called}: {found}"
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

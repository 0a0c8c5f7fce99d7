r"""The open exercise of notebook 11_reinforcement: a rule that pays for the right sum and for nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from coursekit.checks.compare import Comparison
from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw

#: One answer of each form; s is the right sum, n another number.
_HONEST: tuple[Callable[[int, int], str], ...] = (
    lambda s, n: f" {s}",
    lambda s, n: f" {s}.",
    lambda s, n: f"The sum is {s}.",
    lambda s, n: f" {s}\n{n} + 2 = {n + 2}",
    lambda s, n: f"= {s}\n",
)
_GAMED: tuple[Callable[[int, int], str], ...] = (
    lambda s, n: f" {n}",
    lambda s, n: f" {s} {n}",
    lambda s, n: f"{n}, {s}",
    lambda s, n: " " + " ".join(str(i) for i in range(s - 3, s + 4)),
    lambda s, n: f"It is {n} or {s}.",
    lambda s, n: f" {s}{n}",
    lambda s, n: f" 1{s}",
    lambda s, n: f" {s}.5",
    lambda s, n: f" -{s}",
    lambda s, n: f" {n}\n{s}",
    lambda s, n: "The sum is right.",
    lambda s, n: "",
)


def _secret(draw: Draw) -> tuple[int, int, list[str]]:
    a, b = draw.whole(5, 20), draw.whole(5, 20)
    s = a + b
    texts = [form(s, s + draw.pick((-4, -2, -1, 1, 2, 3, 5))) for form in (*_HONEST, *_GAMED)]
    return a, b, [texts[i] for i in draw.order(len(texts))]


def _of_each(pays: Callable[[str, int], bool]) -> Callable[[int, int, list[str]], tuple[float, ...]]:
    return lambda a, b, answers: tuple(float(pays(answer, a + b)) for answer in answers)


def _numbers(text: str) -> list[str]:
    return re.findall(r"-?\d+(?:\.\d+)?", text)


def _only_number(answer: str, s: int) -> bool:
    r"""One number stands in the first line, and it is the sum."""
    return _numbers(answer.split("\n")[0]) == [str(s)]


def _separates(compare: Comparison, given: Any, case: Any, own: Any) -> str | None:
    r"""Right is any rule that pays each right answer more than each of the others."""
    if type(given) not in (list, tuple):
        return "it must return a list of rewards"
    if len(given) != len(own):
        return "it must return as many rewards as there are answers"
    if not all(type(one) in (int, float, bool) and math.isfinite(one) for one in given):
        return "every reward must be a finite number"
    honest = [(reward, text) for reward, right, text in zip(given, own, case[2], strict=True) if right]
    gamed = [(reward, text) for reward, right, text in zip(given, own, case[2], strict=True) if not right]
    (least, poor), (most, rich) = min(honest), max(gamed)
    if least > most:
        return None
    asked = f": to {case[0]} + {case[1]}, "
    if most == min(given):  # nothing wrong is paid
        return "a right answer gets no more than a wrong one" + compare.exactly(
            f"{asked}{poor!r} gets {least:g}, as {rich!r} does"
        )
    return "a wrong answer gets as much as a right one" + compare.exactly(
        f"{asked}{rich!r} gets {most:g} and {poor!r} gets {least:g}"
    )


RULE = Exercise(
    id="reinforcement-rule", points=4, difficulty=3, minutes=20,
    secret=_secret, reference=_of_each(_only_number), judge=_separates,
    mutants={
        "digits inside another number are paid, and so is a list of numbers": _of_each(
            lambda answer, s: str(s) in answer
        ),
        "a list of numbers is paid, as soon as the right one is among them": _of_each(
            lambda answer, s: str(s) in _numbers(answer)
        ),
        "only the first number is looked at: what is written after it is paid, too": _of_each(
            lambda answer, s: _numbers(answer)[:1] == [str(s)]
        ),
        "only the last number is looked at": _of_each(lambda answer, s: _numbers(answer)[-1:] == [str(s)]),
        "a right answer with words around it, or with a next line, is not paid": _of_each(
            lambda answer, s: answer.strip() == str(s)
        ),
        "a full stop is read as a part of the number: '17.' says 17": _of_each(
            lambda answer, s: re.findall(r"-?\d+\.?\d*", answer.split("\n")[0]) == [str(s)]
        ),
        "signs and decimals are overlooked: 17.5 and -17 hold a 17": _of_each(
            lambda answer, s: re.findall(r"\d+", answer.split("\n")[0])[:1] == [str(s)]
        ),
        "the next line counts, though the answer ends with the first": _of_each(
            lambda answer, s: _numbers(answer) == [str(s)]
        ),
        "every answer gets the same": _of_each(lambda answer, s: True),
    },
)  # fmt: skip

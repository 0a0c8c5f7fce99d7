r"""Whether an answer has the form that was asked for, and whether it is right: rules, no opinion.

The rules are those of `check` in data/instructions.jsonl (see data/INSTRUCTIONS.md). Form and content are two
questions: "Reptile, since it lays eggs." is right and is not the one word that was asked for.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from coursekit.errors import CourseError, unknown
from coursekit.evaluation.scores import Score

Check = Mapping[str, Any]

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
#: A short answer with a number: the number, and at most this many words with it.
_UNIT_WORDS = 3
#: More words than the answers of this kind have, twice over: what is longer explains instead of answering.
_BRIEF = 15


def has_form(check: Check, answer: str) -> bool:
    r"""Whether `answer` is written as asked: one of the options, one line, JSON, so many steps, and so on.

    Raises CourseError for a check of an unknown type.
    """
    return _rule(_FORM, check)(check, answer.strip())


def is_right(check: Check, answer: str) -> bool | None:
    r"""Whether `answer` is right in content; None for Python, which would have to be run.

    Raises CourseError for a check of an unknown type.
    """
    return _rule(_RIGHT, check)(check, answer.strip())


def form_score(checks: Sequence[str], answers: Sequence[str]) -> Score:
    r"""Share of the answers that have their form. checks: as `load_instructions` gives them, JSON; answers to an empty
    one are left out.
    """
    return Score.of(torch.tensor([has_form(c, a) for c, a in _checked(checks, answers)], dtype=torch.bool))


def right_score(checks: Sequence[str], answers: Sequence[str]) -> Score:
    r"""Share of the answers that are right, of those that a rule can judge without running them."""
    found = [is_right(c, a) for c, a in _checked(checks, answers)]
    return Score.of(torch.tensor([one for one in found if one is not None], dtype=torch.bool))


def _checked(checks: Sequence[str], answers: Sequence[str]) -> list[tuple[Check, str]]:
    return [(json.loads(c), a) for c, a in zip(checks, answers, strict=True) if c]


def _rule(rules: Mapping[str, Callable[[Check, str], Any]], check: Check) -> Callable[[Check, str], Any]:
    if check.get("type") not in rules:
        raise unknown("type of check", check.get("type"), rules)
    for key in ("value", *(["options"] if check["type"] == "choice" else [])):
        if key not in check:
            raise CourseError(f"a check of type {check['type']!r} needs {key}")
    return rules[check["type"]]


# Form ---------------------------------------------------------------------------------------------------------------


def _option(check: Check, answer: str) -> bool:
    return answer in check["options"]


def _line(check: Check, answer: str) -> bool:
    r"""As many lines as the right one, mostly a single one, and about as long."""
    most = max(_UNIT_WORDS, 2 * len(check["value"].split()))
    return answer.count("\n") == check["value"].count("\n") and 0 < len(answer.split()) <= most


def _brief(check: Check, answer: str) -> bool:
    return _words(answer, _BRIEF)


def _number(check: Check, answer: str) -> bool:
    return bool(_NUMBER.search(answer)) and _words(answer, 1 + _UNIT_WORDS)


def _limit(check: Check, answer: str) -> bool:
    return _words(answer, check["value"])


def _parsed(check: Check, answer: str) -> bool:
    return _json(answer) is not None


def _items(check: Check, answer: str) -> bool:
    return len(_listed(answer)) == len(check["value"])


def _steps(check: Check, answer: str) -> bool:
    lines = answer.split("\n")
    return len(lines) == check["value"] and all(
        re.match(rf"{number}\. \S", line) for number, line in enumerate(lines, 1)
    )


def _function(check: Check, answer: str) -> bool:
    r"""Python and nothing else, with a function in it. It is parsed and never run."""
    try:
        return any(isinstance(node, ast.FunctionDef) for node in ast.parse(answer).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


# Content ------------------------------------------------------------------------------------------------------------


def _equals(check: Check, answer: str) -> bool:
    return answer == check["value"]


def _first_number(check: Check, answer: str) -> bool:
    found = _NUMBER.search(answer.replace(",", ""))
    return found is not None and float(found[0]) == check["value"]


def _holds(check: Check, answer: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(check['value'])}(?!\w)", answer, re.IGNORECASE))


def _same_json(check: Check, answer: str) -> bool:
    # Compared as text: to Python, true equals 1.
    return json.dumps(_json(answer), sort_keys=True) == json.dumps(check["value"], sort_keys=True)


def _same_items(check: Check, answer: str) -> bool:
    return _listed(answer) == check["value"]


def _unknown(check: Check, answer: str) -> None:
    return None


_FORM: dict[str, Callable[[Check, str], bool]] = {
    "choice": _option, "text": _line, "number": _number, "list": _items, "words": _limit, "contains": _brief,
    "json": _parsed, "python": _function, "steps": _steps,
}  # fmt: skip
_RIGHT: dict[str, Callable[[Check, str], bool | None]] = {
    "choice": _equals, "text": _equals, "number": _first_number, "list": _same_items, "words": _limit,
    "contains": _holds, "json": _same_json, "python": _unknown, "steps": _steps,
}  # fmt: skip


def _words(answer: str, most: int) -> bool:
    return "\n" not in answer and 0 < len(answer.split()) <= most


def _listed(answer: str) -> list[str]:
    r"""The items of a list on one line ("a, b") or on several ("- a")."""
    if answer.startswith("- "):
        return [line.removeprefix("- ") for line in answer.split("\n")]
    return answer.split(", ") if "\n" not in answer else []


def _json(answer: str) -> Any:
    r"""An object or a list, None where there is neither."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None

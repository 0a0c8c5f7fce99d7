r"""The instruction data: complete, varied, and right wherever a rule can tell."""

import calendar
import json
import math
import re
from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from coursekit.paths import DATA

KEYS = ["id", "kind", "instruction", "context", "output", "check"]
#: What a check may hold besides "type" and "value".
EXTRA = {
    "number": {"expression"},
    "json": set(),
    "list": {"expression"},
    "choice": {"options"},
    "text": set(),
    "contains": set(),
    "words": set(),
    "steps": set(),
    "python": set(),
}
#: All that an expression in the data may call.
CALLS = {call.__name__: call for call in (float, len, list, reversed, sorted)}

LINES = (DATA / "instructions.jsonl").read_text(encoding="utf-8").splitlines()
ROWS: list[dict[str, Any]] = [json.loads(line) for line in LINES]


def of(type_: str, kind: str | None = None) -> list[dict[str, Any]]:
    r"""The items whose check is of this type (and that are of `kind`)."""
    found = [row for row in ROWS if row["check"] and row["check"]["type"] == type_ and kind in (None, row["kind"])]
    assert found
    return found


def source(row: dict[str, Any]) -> str:
    return f"{row['instruction']}\n{row['context']}"


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", text)]


def listed(output: str) -> list[str]:
    r"""The items of a list on one line ("a, b") or on several ("- a")."""
    if output.startswith("- "):
        return [line.removeprefix("- ") for line in output.split("\n")]
    return output.split(", ")


def evaluate(expression: str) -> Any:
    return eval(expression, {"__builtins__": {}}, CALLS)


def leaves(value: Any) -> list[Any]:
    r"""The strings, numbers and booleans in a JSON value; keys are not among them."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [leaf for part in inner for leaf in leaves(part)]
    return [value]


def test_size_and_kinds():
    kinds = Counter(row["kind"] for row in ROWS)
    assert len(ROWS) >= 300
    assert sum(count >= 15 for count in kinds.values()) >= 8
    assert min(kinds.values()) >= 15, kinds


def test_with_and_without_context():
    share = sum(bool(row["context"]) for row in ROWS) / len(ROWS)
    assert 0.4 < share < 0.65


def test_schema():
    for row in ROWS:
        assert list(row) == KEYS
        for key in KEYS[:-1]:
            assert isinstance(row[key], str)
            assert row[key] == row[key].strip()
            assert row[key] or key == "context"
            assert row[key].isascii() and row[key].replace("\n", "").isprintable()
        assert re.fullmatch(r"[a-z]+-\d{3}", row["id"])
        assert 1 <= len(row["output"].split()) <= 60
        check = row["check"]
        if check is not None:
            optional = EXTRA[check["type"]]
            assert {"type", "value"} <= set(check) <= {"type", "value"} | optional
            assert "options" in check or "options" not in optional


def test_ids_are_unique_and_name_one_kind():
    ids = [row["id"] for row in ROWS]
    assert len(set(ids)) == len(ids)
    prefixes = {(row["id"].partition("-")[0], row["kind"]) for row in ROWS}
    assert len(prefixes) == len({prefix for prefix, _ in prefixes}) == len({kind for _, kind in prefixes})


def test_no_item_repeats():
    seen = Counter((row["instruction"].lower(), row["context"].lower()) for row in ROWS)
    assert [pair for pair, count in seen.items() if count > 1] == []


def test_no_near_duplicates():
    # Sets of words, as in Jaccard's similarity; a 0.8 is one word in five that differs.
    words = {row["id"]: set(re.findall(r"\w+", source(row).lower())) for row in ROWS}
    close = [
        (one, other)
        for one, other in combinations(words, 2)
        if len(words[one] & words[other]) >= 0.8 * len(words[one] | words[other])
    ]
    assert close == []


def test_arithmetic_always_says_how_it_is_computed():
    for row in ROWS:
        if row["kind"] in ("arithmetic", "conversion"):
            assert row["check"]["type"] == "number", row["id"]
            assert row["check"]["expression"], row["id"]


def test_numbers_recomputed():
    for row in of("number"):
        check = row["check"]
        assert math.isclose(evaluate(check["expression"]), check["value"], rel_tol=1e-12)
        assert numbers(row["output"])[0] == check["value"]


def test_arithmetic_uses_the_numbers_given():
    for row in of("number", kind="arithmetic"):
        # Numbers in words ("three books") and constants of a formula (the 2 in a triangle's area) are few.
        given = numbers(source(row))
        used = numbers(row["check"]["expression"])
        assert set(given) & set(used), "the expression has nothing to do with the question"


def test_json_parses_to_its_value():
    for row in of("json"):
        parsed = json.loads(row["output"])
        # Compared as text: to Python, true equals 1.
        assert json.dumps(parsed, sort_keys=True) == json.dumps(row["check"]["value"], sort_keys=True)


def test_json_holds_only_what_the_source_says():
    for row in of("json"):
        text = source(row)
        months = {number for number in range(1, 13) if calendar.month_name[number] in text}
        known = set(numbers(re.sub(r"(?<=\d)-(?=\d)", " ", text))) | months
        for leaf in leaves(row["check"]["value"]):
            if isinstance(leaf, str):
                assert leaf in text
            elif not isinstance(leaf, bool):
                assert leaf in known


def test_lists_read_back_and_recomputed():
    for row in of("list"):
        check = row["check"]
        assert listed(row["output"]) == check["value"]
        assert len(check["value"]) >= 2
        if "expression" in check:
            assert [str(item) for item in evaluate(check["expression"])] == check["value"]
        for item in check["value"]:
            assert re.search(rf"(?<!\w){re.escape(item)}", source(row)), f"{item!r} is not in the source"


def test_choices_are_among_the_options_offered():
    for row in of("choice"):
        check = row["check"]
        assert row["output"] == check["value"]
        assert check["options"].count(check["value"]) == 1
        assert len(set(check["options"])) == len(check["options"]) >= 2
        for option in check["options"]:
            assert re.search(rf"(?<!\w){re.escape(option)}(?!\w)", source(row)), f"{option!r} is not offered"


def test_no_answer_dominates_the_sentiment_items():
    for kind in ("sentiment", "classification"):
        places = Counter(row["check"]["options"].index(row["output"]) for row in ROWS if row["kind"] == kind)
        assert max(places.values()) <= 0.6 * sum(places.values()), (kind, places)


def stands(row: dict[str, Any], text: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(row['check']['value'])}(?!\w)", text, re.IGNORECASE))


#: What holds of each row with this type of check, and of this kind.
HOLDS = {
    "the answer is the exact one": ("text", None, lambda row: row["output"] == row["check"]["value"]),
    "a correction changes something": ("text", "grammar", lambda row: row["output"] not in source(row)),
    "the key word stands in the answer": ("contains", None, lambda row: stands(row, row["output"])),
    "the answer comes from the passage": ("contains", "reading", lambda row: stands(row, source(row))),
    "words are few": ("words", None, lambda row: len(row["output"].split()) <= row["check"]["value"] <= 60),
    "words are on one line": ("words", None, lambda row: "\n" not in row["output"]),
    "a summary is shorter than the text": (
        "words", "summary", lambda row: len(row["output"].split()) < 0.7 * len(row["context"].split())
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOLDS)
def test_what_holds_of_every_answer_of_a_type(what):
    type_, kind, holds = HOLDS[what]
    assert [row["id"] for row in of(type_, kind) if not holds(row)] == []


def test_steps_are_numbered():
    for row in of("steps"):
        lines = row["output"].split("\n")
        assert len(lines) == row["check"]["value"] >= 2
        for number, line in enumerate(lines, 1):
            assert re.fullmatch(rf"{number}\. [A-Z].*\.", line)
        asked = re.search(r"\b(three|four)\b", row["instruction"])
        assert asked and len(lines) == {"three": 3, "four": 4}[asked[1]]


def test_functions_return_what_they_promise():
    for row in of("python"):
        scope: dict[str, Any] = {}
        exec(row["output"], scope)
        assert len(row["check"]["value"]) >= 2
        for call, expected in row["check"]["value"]:
            result = eval(call, scope)
            assert result == expected, call
            assert isinstance(result, bool) == isinstance(expected, bool), call

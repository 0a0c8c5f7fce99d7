r"""An exercise of notebook 00b_packing: which rows of training data are unfit, and why.

The rows are the course's own instructions as SmolLM2's chat template writes them, with one fault each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.labels import IGNORED

#: What SmolLM2's template writes before an answer.
MARK = "<|im_start|>assistant\n"
#: What may be wrong with a row.
FAULTS = ("leaked", "repeated", "cut", "nothing learned", "shifted", "prompt learned", "end not learned")

Ids = list[int]
Row = dict[str, Ids]
Rows = Sequence[Row]
Signs = Callable[[Ids, Ids, int, int, Sequence[Ids], Sequence[Ids]], dict[str, bool]]


def start_of_answer(ids: Ids, mark: Ids) -> int:
    r"""Place of the first token behind `mark`."""
    return next(i + len(mark) for i in range(len(ids)) if ids[i : i + len(mark)] == mark)


def signs(
    ids: Ids, labels: Ids, start: int, end_id: int, earlier: Sequence[Ids], asked: Sequence[Ids]
) -> dict[str, bool]:
    r"""What may be wrong with a row -> whether it shows; the first that does is the row's fault.

    start: of the answer. earlier: the `input_ids` of the rows before this one. asked: the prompts of the test.
    """
    return {
        "leaked": ids[:start] in asked,
        "repeated": ids in earlier,
        "cut": ids[-1] != end_id,
        "nothing learned": all(label == -100 for label in labels),
        "shifted": any(label not in (-100, token) for token, label in zip(ids, labels, strict=True)),
        "prompt learned": any(label != -100 for label in labels[:start]),
        "end not learned": labels[-1] == -100,
    }


def audit(train: Rows, test: Rows, mark: Ids, end_id: int, signs: Signs = signs) -> tuple[str, ...]:
    r"""The fault of each training row, or "fit"."""
    asked = [row["input_ids"][: start_of_answer(row["input_ids"], mark)] for row in test]
    earlier: list[Ids] = []
    names = []
    for row in train:
        ids = row["input_ids"]
        shown = signs(ids, row["labels"], start_of_answer(ids, mark), end_id, earlier, asked)
        names.append(next((fault for fault, shows in shown.items() if shows), "fit"))
        earlier.append(ids)
    return tuple(names)


@functools.cache
def tokenizer() -> Any:
    r"""SmolLM2's."""
    from transformers import AutoTokenizer

    from coursekit.models.sources import smollm2

    return AutoTokenizer.from_pretrained(smollm2())


@functools.cache
def items(split: str) -> tuple[tuple[str, str, str], ...]:
    r"""Instruction, context and output of the course's short items."""
    from coursekit.tasks.instructions import load_instructions

    rows = load_instructions()[split]
    found = zip(rows["instruction"], rows["context"], rows["output"], strict=True)
    return tuple(item for item in found if sum(map(len, item)) < 160)


@functools.cache
def _encoded(instruction: str, context: str, output: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    from coursekit.tasks.conversations import encode
    from coursekit.tasks.instructions import instruction_segments

    found = encode(tokenizer(), instruction_segments(tokenizer(), instruction, context, output))
    return tuple(found.input_ids), tuple(found.labels)


def row_of(item: tuple[str, str, str]) -> Row:
    r"""A fit row."""
    ids, labels = _encoded(*item)
    return {"input_ids": list(ids), "labels": list(labels)}


def spoiled(row: Row, fault: str, draw: Draw) -> Row:
    r"""`row` with a fault of its own ids and labels."""
    ids, labels = row["input_ids"], row["labels"]
    if fault == "cut":
        lost = draw.whole(1, sum(label != IGNORED for label in labels) - 1)
        ids, labels = ids[:-lost], labels[:-lost]
    changed = {
        "nothing learned": [IGNORED] * len(ids),
        "shifted": [*labels[1:], IGNORED],
        "prompt learned": ids,
        "end not learned": [*labels[:-1], IGNORED],
    }
    return {"input_ids": list(ids), "labels": list(changed.get(fault, labels))}


def drawn(draw: Draw) -> tuple[list[Row], list[Row], Ids, int]:
    r"""Twelve rows: one with each fault, one more of any kind, and fit ones, of which one has an answer of the test and
    two have the same prompt.
    """
    kinds = ["fit"] * 2 + list(FAULTS) + [draw.pick(("fit", *FAULTS))]
    learned, tested = ([items(split)[i] for i in draw.order(len(items(split)))] for split in ("train", "test"))
    twin, its = draw.pick([(a, b) for a in learned for b in tested if a[2] == b[2]])
    learned = [item for item in learned if item != twin]
    tested = [its, *(item for item in tested if item != its)][:6]
    leaks = iter(tested[1:])
    rows = [row_of(twin)]
    for kind, item in zip(kinds, learned, strict=False):
        if kind == "leaked":  # with an answer of its own
            instruction, context, output = next(leaks)
            rows.append(row_of((instruction, context, f"The answer: {output}")))
        elif kind != "repeated":
            rows.append(spoiled(row_of(item), kind, draw))
    instruction, context, output = learned[0]  # which is fit; asked again, with another answer
    rows.append(row_of((instruction, context, f"The answer: {output}")))
    rows = [rows[i] for i in draw.order(len(rows))]
    fit = [row for row in rows if row in [row_of(item) for item in (twin, *learned)]]
    for row in [fit[i] for i in draw.order(len(fit))][: kinds.count("repeated")]:
        again = {name: list(values) for name, values in row.items()}
        rows.insert(draw.whole(rows.index(row) + 1, len(rows)), again)
    test = [row_of(tested[i]) for i in draw.order(len(tested))]
    mark = tokenizer()(MARK, add_special_tokens=False)["input_ids"]
    return rows, test, list(mark), tokenizer().eos_token_id


def public_rows(seed: int) -> tuple[list[Row], list[Row], Ids, int]:
    r"""The arguments of the notebook's check: train, test, mark, end_id."""
    return drawn(Draw(b"the notebook's", f"rows {seed}"))


def _blind_to(fault: str) -> Callable[..., Any]:
    def some(*arguments: Any) -> dict[str, bool]:
        return {name: shows for name, shows in signs(*arguments).items() if name != fault}

    return functools.partial(audit, signs=some)


def _last_label_first(*arguments: Any) -> dict[str, bool]:
    found = signs(*arguments)
    return {"cut": found["cut"], "end not learned": found["end not learned"]} | found


def _by_answer(train: Rows, test: Rows, mark: Ids, end_id: int) -> tuple[str, ...]:
    answers = [row["input_ids"][start_of_answer(row["input_ids"], mark) :] for row in test]
    names = _blind_to("leaked")(train, test, mark, end_id)
    own = [row["input_ids"][start_of_answer(row["input_ids"], mark) :] for row in train]
    return tuple("leaked" if answer in answers else name for answer, name in zip(own, names, strict=True))


def _both(train: Rows, test: Rows, mark: Ids, end_id: int) -> tuple[str, ...]:
    every = [row["input_ids"] for row in train]
    names = audit(train, test, mark, end_id)
    return tuple("repeated" if every.count(ids) > 1 else n for ids, n in zip(every, names, strict=True))


def _by_prompt(train: Rows, test: Rows, mark: Ids, end_id: int) -> tuple[str, ...]:
    asked = [row["input_ids"][: start_of_answer(row["input_ids"], mark)] for row in train]
    names = audit(train, test, mark, end_id)
    return tuple("repeated" if name == "fit" and asked[i] in asked[:i] else name for i, name in enumerate(names))


AUDIT = Exercise(
    id="training-cycle-audit", points=5, difficulty=4, minutes=22,
    inputs=public_rows, secret=drawn, reference=audit,
    mutants={
        "a row that the test asks as well is not found: compare prompts, for the answers may differ":
            _blind_to("leaked"),
        "this compares answers with those of the test; many questions have the same answer, so compare prompts":
            _by_answer,
        "a repeated row is not found: compare input_ids with those of the rows before it": _blind_to("repeated"),
        "a prompt with another answer is called repeated; compare all of input_ids, not the prompt": _by_prompt,
        "both of two equal rows are called repeated; the first is fit, and only the later one is too many": _both,
        "of two equal rows the first is called repeated; it is the later one that is too many":
            lambda train, test, mark, end_id: audit(train[::-1], test, mark, end_id)[::-1],
        "a cut row is not found: its last token is not end_id, though the prompt holds that token as well":
            _blind_to("cut"),
        "where every label is -100, it is not only the end that is not learned": _blind_to("nothing learned"),
        "shifted labels are taken for a learned prompt: look whether each label is the token at its place":
            _blind_to("shifted"),
        "a last label of -100 has three possible causes: is anything learned at all, and are labels in place?":
            functools.partial(audit, signs=_last_label_first),
        "a learned prompt is not found: before the end of mark every label must be -100": _blind_to("prompt learned"),
        "a row whose end is not learned is not found: its last label is -100": _blind_to("end not learned"),
        "every row is called fit: each of the seven faults is among them":
            lambda train, test, mark, end_id: ("fit",) * len(train),
    },
)  # fmt: skip

r"""Instruction data: an instruction, perhaps a context, and the answer a model should learn to give."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset

from coursekit.errors import CourseError, whole
from coursekit.paths import DATA
from coursekit.tasks.conversations import Segment, encode
from coursekit.tasks.prepared import Prepared
from coursekit.tasks.sentiment import SPLITS
from coursekit.tasks.splits import assign, normalise

#: Our column, and the names it goes by in public data (Alpaca, Dolly, and their descendants).
_COLUMNS = {
    "instruction": ("instruction", "prompt", "question"),
    "context": ("context", "input"),
    "output": ("output", "response", "answer", "completion"),
    "kind": ("kind", "category"),
    "check": ("check",),
}
_OPTIONAL = ("context", "kind", "check")
_READERS: dict[str, Callable[[str], Dataset]] = {".csv": Dataset.from_csv, ".parquet": Dataset.from_parquet}


def load_instructions(source: str | Path | None = None) -> DatasetDict:
    r"""Instructions in train, validation and test, columns `instruction`, `context`, `output`, `kind`, `check` (all
    strings; `check` is JSON, see data/INSTRUCTIONS.md, and empty where only a reader can judge).

    source: the course's own by default; a .jsonl, .json, .csv or .parquet file, a folder or a hub id otherwise. Splits
    that the source brings are kept. Where it has no test split, a quarter is set aside by a fixed rule, one fifth for
    test and one twentieth for validation, each kind evenly (see `coursekit.tasks.splits`).

    Raises CourseError for a source that is not there, cannot be read, or lacks the columns.
    """
    source = DATA / "instructions.jsonl" if source is None else source
    found = {split: _renamed(rows, source) for split, rows in _read(source).items()}
    if "test" in found and "train" in found:
        validation = found.get("validation", found["test"].select([]))
        return DatasetDict(train=found["train"], validation=validation, test=found["test"])
    if len(found) != 1:
        raise CourseError(f"{source} has the splits {', '.join(found)}: expected train and test, or a single one")
    return _split(next(iter(found.values())))


def messages(instruction: str, context: str = "") -> list[dict[str, str]]:
    r"""The conversation that asks for an answer: one turn of the user, the context below the instruction."""
    return [{"role": "user", "content": f"{instruction}\n\n{context}" if context else instruction}]


def instruction_prompt(tokenizer: Any, instruction: str, context: str = "") -> str:
    r"""What the model reads before it answers: the tokenizer's chat template, or Alpaca's headings where it has none.

    Tokenise it with `add_special_tokens=False`: a chat template brings its own.
    """
    if getattr(tokenizer, "chat_template", None):
        turns = messages(instruction, context)
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    middle = f"### Input:\n{context}\n\n" if context else ""
    return f"### Instruction:\n{instruction}\n\n{middle}### Response:\n"


def instruction_segments(tokenizer: Any, instruction: str, context: str, output: str) -> list[Segment]:
    r"""One example: the prompt, which is read, and the answer with the end-of-text token, which are learned."""
    prompt = instruction_prompt(tokenizer, instruction, context)
    return [Segment(prompt, False), Segment(output + (tokenizer.eos_token or ""), True)]


def prepare_instructions(data: DatasetDict, tokenizer: Any, max_length: int = 256) -> Prepared:
    r"""Token ids of prompt, answer and end-of-text token; the prompt is masked in the labels with −100.

    An example longer than `max_length` tokens is left out, with a warning that counts them: a model trained on answers
    that were cut does not learn where they end. Raises CourseError where that leaves nothing to train on.
    """
    max_length = whole("max_length", max_length, least=2, such_as=256)
    kept, lengths = {}, []
    for split, rows in data.items():
        encoded = [
            encode(tokenizer, instruction_segments(tokenizer, row["instruction"], row["context"], row["output"]))
            for row in rows
        ]
        lengths += [len(one.input_ids) for one in encoded]
        fit = [one for one in encoded if len(one.input_ids) <= max_length]
        kept[split] = Dataset.from_dict(
            {
                "input_ids": [one.input_ids for one in fit],
                "attention_mask": [[1] * len(one.input_ids) for one in fit],
                "labels": [one.labels for one in fit],
            }
        )
    longest = max(lengths, default=0)
    if not kept.get("train"):
        raise CourseError(f"max_length={max_length} leaves no example to train on: the longest has {longest} tokens")
    if longest > max_length:
        warnings.warn(
            f"{sum(n > max_length for n in lengths)} of {len(lengths)} examples are longer than "
            f"max_length={max_length} tokens and were left out (the longest has {longest})",
            stacklevel=2,
        )
    return Prepared("instructions", "decoder", tokenizer, DatasetDict(kept), max_length)


def _read(source: str | Path) -> dict[str, Dataset]:
    path = Path(source)
    try:
        if path.suffix in (".jsonl", ".json"):
            return {"all": Dataset.from_list(_read_json(path))}
        if path.suffix in _READERS:
            if not path.is_file():
                raise FileNotFoundError
            return {"all": _READERS[path.suffix](str(path))}
        return dict(load_dataset(str(source)))
    except CourseError:
        raise
    except FileNotFoundError as error:
        raise CourseError(
            f"no instruction data at {source}: give a file, a folder, or a hub id like owner/name"
        ) from error
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CourseError(f"cannot read instruction data from {source}: {reason}") from error


def _read_json(path: Path) -> list[dict[str, Any]]:
    r"""The rows of a JSON list, or of a file with one JSON object a line; every value as text."""
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else list(_json_lines(path, text))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CourseError(f"{path}: every row must be a JSON object with the columns as its keys")
    # All keys of all rows, as text: rows may differ in their optional and in their nested columns.
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: _text(row.get(key)) for key in keys} for row in rows]


def _json_lines(path: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise CourseError(f"{path}, line {number}: not JSON ({error.msg})") from error


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _renamed(rows: Dataset, source: str | Path) -> Dataset:
    r"""`rows` with our column names and no others; an optional column that is missing is empty."""
    columns, table = {}, rows[:]
    for ours, names in _COLUMNS.items():
        name = next((name for name in names if name in rows.column_names), None)
        if name is None and ours not in _OPTIONAL:
            raise CourseError(
                f"{source} has no column {' or '.join(names)}, only {', '.join(rows.column_names) or 'none'}"
            )
        values = table[name] if name else [""] * len(rows)
        columns[ours] = [_text(value) for value in values]
    named = Dataset.from_dict(columns)
    full = [i for i, row in enumerate(named) if row["instruction"].strip() and row["output"].strip()]
    if len(full) < len(named):
        missing = len(named) - len(full)
        warnings.warn(
            f"{missing} of {len(named)} rows have no instruction or no output and were left out", stacklevel=3
        )
    return named.select(full)


def _split(rows: Dataset) -> DatasetDict:
    keys = [normalise(f"{row['instruction']} {row['context']}") for row in rows]
    rank = {kind: place for place, kind in enumerate(sorted(set(rows["kind"])))}
    split_of = assign({key: rank[kind] for key, kind in zip(keys, rows["kind"], strict=True)})
    return DatasetDict(
        {split: rows.select([i for i, key in enumerate(keys) if split_of[key] == split]) for split in SPLITS}
    )

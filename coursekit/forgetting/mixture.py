r"""Training rows of several data sets in one: tasks learned together, or an old one rehearsed beside a new one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from datasets import Dataset, Features, concatenate_datasets

from coursekit.errors import CourseError, number, whole
from coursekit.tasks.prepared import Prepared
from coursekit.tasks.task import task_of


def mixture(
    parts: Mapping[str, Prepared], rows: int, shares: Mapping[str, float] | None = None, *, seed: int = 0
) -> Prepared:
    r"""A data set whose train split has exactly `rows` rows, `shares` of them from each of `parts`, well shuffled.

    Learning several tasks at once (multitask learning: Caruana 1997, Machine Learning 28). A part gives the first
    rows of its train split, none of them twice. shares: of each part, by the same names, 1 in all; equal by default.
    The counts are whole: each share of the rows rounded down, and the rows still missing from the parts that lost
    most by that (largest remainder). seed: of the order only; which rows there are does not depend on it.

    Everything else, validation and test splits among it, is the first part's.

    Raises CourseError for parts that one model cannot learn together, for one with too few rows, and for shares that
    are none.
    """
    if not parts:
        raise CourseError("nothing to mix: give one part or more, such as {'film': film}")
    counts = _counts(list(parts), rows, shares)
    first, *others = parts
    for other in others:
        _check_alike(first, parts[first], other, parts[other])

    chosen = []
    for name, part in parts.items():
        train = part.split("train")
        if len(train) < counts[name]:
            raise CourseError(
                f"{name} has {len(train)} training rows, and {counts[name]} of the {rows} would come from it: ask for "
                "fewer rows in all or a smaller share of these, none is taken twice"
            )
        chosen.append(train.select(range(counts[name])))
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).tolist()
    mixed = concatenate_datasets(_alike(chosen)).select(order)
    name = " + ".join(f"{part} {100 * count / rows:.4g} %" for part, count in counts.items())
    data = type(parts[first].data)(dict(parts[first].data) | {"train": mixed})
    return replace(parts[first], name=name, data=data)


def replay(new: Prepared, old: Prepared, share: float, rows: int, *, seed: int = 0) -> Prepared:
    r"""`new` with exactly round(`share` · `rows`) of its `rows` training rows replaced by rows of `old`.

    Rehearsal (Robins 1995, Connection Science 7): while the new task is learned, a little of the old one is shown
    again. The budget stays what it was, so old rows take the place of new ones. Validation and test are those of
    `new`.

    Raises CourseError for a share outside [0, 1), and whatever `mixture` does.
    """
    share = number("share", share, least=0, below=1, such_as=0.05)
    share = round(share * whole("rows", rows, least=1, such_as=1000)) / rows  # a whole number of rows
    other = old.name if old.name != new.name else f"{old.name} (old)"
    return mixture({new.name: new, other: old}, rows, {new.name: 1 - share, other: share}, seed=seed)


def _counts(names: list[str], rows: int, shares: Mapping[str, float] | None) -> dict[str, int]:
    r"""Rows of each part, `rows` in all, by the largest remainder; of equal ones the earlier part's comes first."""
    rows = whole("rows", rows, least=1, such_as=1000)
    if shares is not None and set(shares) != set(names):
        raise CourseError(
            f"shares of {', '.join(shares) or 'nothing'} for parts {', '.join(names)}: give one for each, by its name"
        )
    if shares is not None and not all(0 <= share <= 1 for share in shares.values()):
        raise CourseError(f"shares={dict(shares)}: each is a part of the whole, from 0 to 1")
    # As it is written: 0.29 of 50 rows are 14.5, and not a little less.
    exact = {
        name: Fraction(str(float(shares[name]))) if shares else Fraction(1, len(names)) for name in names
    }
    total = sum(exact.values())
    if abs(total - 1) > 1e-9:
        raise CourseError(f"shares={dict(shares or {})}: they sum to {float(total):.10g}, and must sum to 1")

    quotas = {name: share / total * rows for name, share in exact.items()}
    counts = {name: math.floor(quota) for name, quota in quotas.items()}
    missing = rows - sum(counts.values())
    for name in sorted(names, key=lambda name: counts[name] - quotas[name])[:missing]:
        counts[name] += 1
    return counts


def _check_alike(first: str, one: Prepared, name: str, other: Prepared) -> None:
    r"""Raise CourseError where `other` cannot be learned by the model that learns `one`."""
    if other.kind != one.kind:
        raise CourseError(
            f"{name} is for {_a(other.kind)} and {first} for {_a(one.kind)}: prepare both for the same kind of model"
        )
    if other.tokenizer is not one.tokenizer and other.tokenizer.get_vocab() != one.tokenizer.get_vocab():
        raise CourseError(f"{name} has the tokens of another tokenizer than {first}: prepare both with one")
    there, here = (set(part.split("train").column_names) for part in (other, one))
    if there != here:
        raise CourseError(
            f"{name} and {first} differ in their columns ({', '.join(sorted(there ^ here))}), and the rows of a batch "
            "cannot: prepare both in the same way"
        )
    if one.kind == "decoder":
        return  # its labels are tokens, whatever the task
    ratings, words = _labels(one)
    other_ratings, other_words = _labels(other)
    if ratings != other_ratings or (words and other_words and words != other_words):
        raise CourseError(
            f"{name} is labelled with {_told(other_ratings, other_words)} and {first} with {_told(ratings, words)}: "
            "a classifier learns one kind of label, so load both with the same"
        )


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "encoder" else f"a {kind}"


def _labels(part: Prepared) -> tuple[bool, tuple[str, ...]]:
    r"""Whether an encoder learns ratings from `part`, and the names of its classes where it has them."""
    rated = str(part.split("train").features["labels"].dtype).startswith("float")
    task = task_of(part)
    return rated, task.labels if task else ()


def _told(ratings: bool, words: tuple[str, ...]) -> str:
    return "ratings" if ratings else "classes" + (f" ({', '.join(words)})" if words else "")


def _alike(chosen: Sequence[Dataset]) -> list[Dataset]:
    r"""The same rows with columns and number formats as in the first: only data sets that agree in them join."""
    return [_in(rows.select_columns(chosen[0].column_names), chosen[0].features) for rows in chosen]


def _in(rows: Dataset, features: Features) -> Dataset:
    # Through Python: `cast` would show a progress bar and leave files behind.
    return rows if rows.features == features else Dataset.from_dict(rows.with_format(None)[:], features)

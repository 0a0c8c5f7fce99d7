r"""Old training rows beside the new: rehearsal (Robins 1995, Connection Science 7)."""

from __future__ import annotations

from dataclasses import replace

import torch
from datasets import Dataset, concatenate_datasets

from coursekit.errors import CourseError, number, whole
from coursekit.tasks.prepared import Prepared
from coursekit.tasks.task import task_of


def replay(new: Prepared, old: Prepared, share: float, rows: int, *, seed: int = 0) -> Prepared:
    r"""`new` with `rows` training rows, round(`share` · `rows`) of them from `old`, well shuffled.

    While the new task is learned, a little of the old one is shown again. The budget stays what it was, so old rows
    take the place of new ones; half of each is learning both tasks at once (multitask learning: Caruana 1997, Machine
    Learning 28). Each gives the first rows of its train split, none of them twice. seed: of the order only. Everything
    else, validation and test splits among it, is that of `new`.

    Raises CourseError for a share outside [0, 1), for too few rows, and for data that one model cannot learn together.
    """
    share = number("share", share, least=0, below=1, such_as=0.05)
    again = round(share * whole("rows", rows, least=1, such_as=1000))
    counts = {new.name: rows - again, old.name if old.name != new.name else f"{old.name} (old)": again}
    _check_alike(new, old, *counts)
    chosen = []
    for (name, count), part in zip(counts.items(), (new, old), strict=True):
        train = part.split("train")
        if len(train) < count:
            raise CourseError(
                f"{name} has {len(train)} training rows, and {count} of the {rows} would come from it: ask for fewer "
                "rows in all or a smaller share of these, none is taken twice"
            )
        chosen.append(train.select(range(count)).select_columns(new.split("train").column_names))
    if chosen[0].features != chosen[1].features:
        # Through Python: `cast` shows a progress bar and leaves files behind.
        chosen[1] = Dataset.from_dict(chosen[1].with_format(None)[:], chosen[0].features)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).tolist()
    said = " + ".join(f"{name} {100 * count / rows:.4g} %" for name, count in counts.items())
    return replace(new.with_rows("train", concatenate_datasets(chosen).select(order)), name=said)


def _check_alike(new: Prepared, old: Prepared, one: str, other: str) -> None:
    r"""Raise CourseError where the model that learns `new`, called `one`, cannot learn `old`."""
    if old.kind != new.kind:
        raise CourseError(
            f"{other} is for {old.kind}s and {one} for {new.kind}s: prepare both for the same kind of model"
        )
    if old.tokenizer is not new.tokenizer and old.tokenizer.get_vocab() != new.tokenizer.get_vocab():
        raise CourseError(f"{other} has the tokens of another tokenizer than {one}: prepare both with one")
    there, here = (set(part.split("train").column_names) for part in (old, new))
    if there != here:
        raise CourseError(
            f"{other} and {one} differ in their columns ({', '.join(sorted(there ^ here))}), and the rows of a batch "
            "cannot: prepare both in the same way"
        )
    labels = {_labels(old): other, _labels(new): one}
    if len(labels) == 2 and ("ratings" in labels or "classes" not in labels):
        raise CourseError(
            f"{other} is labelled with {_labels(old)} and {one} with {_labels(new)}: a classifier learns one kind of "
            "label, so load both with the same"
        )


def _labels(part: Prepared) -> str:
    r"""What is learned from `part`, and the names of its classes where it has them."""
    if part.kind == "decoder":
        return "tokens"  # whatever the task
    if str(part.split("train").features["labels"].dtype).startswith("float"):
        return "ratings"
    task = task_of(part)
    return f"classes ({', '.join(task.labels)})" if task and task.labels else "classes"

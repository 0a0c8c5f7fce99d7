r"""A course of a few exercises, as a notebook and as submissions to it."""

from collections.abc import Iterable
from typing import Any

from coursekit.checks import every_kind


def notebook(cells: list[dict[str, Any]]) -> dict[str, Any]:
    kernel = {"name": "python3", "display_name": "Python 3"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}


def cell(source: str, id: str, **metadata: object) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": id,
        "source": source,
        "metadata": metadata,
        "outputs": [],
        "execution_count": None,
    }


def exercise(id: str, source: str) -> dict[str, Any]:
    r"""The cell in which exercise `id` is answered."""
    grade = {"grade": False, "grade_id": id, "locked": False, "schema_version": 3, "solution": True, "task": False}
    return cell(source, id, nbgrader=grade)


def check(id: str, points: int) -> dict[str, Any]:
    r"""The check after exercise `id`."""
    grade = {"grade": True, "grade_id": f"{id}-check", "locked": True, "schema_version": 3, "solution": False}
    source = f"check({id!r}, {id.replace('-', '_')})"
    return cell(source, f"{id}-check", nbgrader={**grade, "task": False, "points": points})


#: First lines of the functions that are not called with the same arguments as their reference.
HEADS = {
    "lora-train": "def lora_train(load, names, ids, mask, targets, r, alpha):",
    "lora-estimate": "def lora_estimate():",
}


def course(ids: Iterable[str]) -> dict[str, Any]:
    r"""The course's own notebook with the exercises `ids`, not answered, and with the parameter `variant`."""
    cells = [cell("variant = 0", "parameters", tags=["parameters"])]
    for id in ids:
        head = HEADS.get(id, f"def {id.replace('-', '_')}(*arguments):")
        cells += [exercise(id, f"{head}\n    return ..."), check(id, every_kind()[id].points)]
    return notebook(cells)

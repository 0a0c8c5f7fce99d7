r"""What a step and a stored task cost, method by method, as measured: data/evidence/comparison.csv.

Bytes and times of a step do not depend on how long one trains, so that file serves for these, and for no accuracy: its
runs are short.
"""

from __future__ import annotations

from collections.abc import Mapping

from coursekit.comparison.rows import Row, from_csv
from coursekit.memory.breakdown import MB
from coursekit.paths import DATA

#: What a bar of the memory bill is made of.
PARTS = ("weights", "master", "gradients", "optimizer", "activations")
#: Not a method that a task is trained with, or what all are compared with.
BASELINES = ("head", "full")


def read() -> dict[str, Row]:
    r"""Method -> its measured costs."""
    return {row.method: row for row in from_csv(DATA / "evidence" / "comparison.csv")}


def bills(costs: Mapping[str, Row]) -> dict[str, dict[str, float]]:
    r"""Method -> part of the bill -> MB, for `plots.memory_bars`."""
    return {name: {part: getattr(row, part) / MB for part in PARTS} for name, row in costs.items()}


def said(costs: Mapping[str, Row]) -> list[str]:
    r"""What is worth saying of them, a line each: who needs most and least of what, and who is slower than full."""
    full, others = costs["full"], [row for name, row in costs.items() if name not in BASELINES]
    state = max(others, key=lambda row: row.gradients + row.optimizer)
    found = [
        f"gradients and optimizer: full {_mb(full.gradients + full.optimizer)}, otherwise at most "
        f"{_mb(state.gradients + state.optimizer)} ({state.method})"
    ]
    for part in ("activations", "weights"):
        low = min(others, key=lambda row: getattr(row, part))
        high = max(others, key=lambda row: getattr(row, part))
        found.append(
            f"{part}: {_mb(getattr(low, part))} ({low.method}) to {_mb(getattr(high, part))} ({high.method}), "
            f"full {_mb(getattr(full, part))}"
        )
    lean = min(others, key=lambda row: row.peak)
    found.append(f"least at its peak: {lean.method}, {full.peak / lean.peak:.1f} times less than full")
    noise = abs(full.step_ratio - 1)
    slower = [row.method for row in others if row.step_ratio > 1 + noise]
    found.append(
        f"step time of full fine-tuning against itself: {full.step_ratio:.2f}, which is the noise; slower: "
        f"{', '.join(slower) or 'none'}"
    )
    most = sorted(others, key=_bytes_each, reverse=True)[:3]
    found.append(
        "most bytes stored for a trained parameter: "
        + ", ".join(f"{row.method} {_bytes_each(row):.1f}" for row in most)
    )
    return found


def _mb(size: int) -> str:
    return f"{size / MB:.0f} MB"


def _bytes_each(row: Row) -> float:
    return row.storage_bytes / (row.trained + row.head)

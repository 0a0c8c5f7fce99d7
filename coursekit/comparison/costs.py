r"""What a step and a stored task cost, method by method, as measured: data/evidence/comparison.csv.

Bytes and times of a step do not depend on how long one trains, so that file serves for these, and for no accuracy: its
runs are short. Positions of single entries that train, eight bytes each, are added to what was measured: no step makes
them, but they stay in memory. What some methods do before the first step (`PREPARED`) is in no column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from transformers import BertConfig

from coursekit.comparison.candidates import EVERY, on_batches, primed
from coursekit.comparison.rows import Row, from_csv
from coursekit.memory.breakdown import MB
from coursekit.methods import SparseAdapter
from coursekit.methods.selective.mask_method import MaskMethod
from coursekit.paths import DATA

#: What a bar of the memory bill is made of.
PARTS = ("weights", "master", "gradients", "optimizer", "activations")
#: What all methods are compared with.
BASELINES = ("head", "full")
#: What chooses its parameters by gradients or by a short training of the whole model: its peak leaves that out.
PREPARED = tuple(name for name, one in EVERY.items() if one.attach in (on_batches, primed))
#: Bytes of a position, an int64.
POSITION = 8
#: The shape of the model that was measured.
MINILM = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def read() -> dict[str, Row]:
    r"""Method -> its measured costs, the positions of masks added to weights and peak."""
    found = {}
    for row in from_csv(DATA / "evidence" / "comparison.csv"):
        method, positions = EVERY[row.method].method, 0
        if isinstance(method, MaskMethod):  # one for each single entry that trains
            positions = row.trained
        elif isinstance(method, SparseAdapter):  # its biases are whole
            positions = method.kept(MINILM)
        more = POSITION * positions
        found[row.method] = replace(row, weights=row.weights + more, peak=row.peak + more)
    return found


def bills(costs: Mapping[str, Row]) -> dict[str, dict[str, float]]:
    r"""Method -> part of the bill -> MB, for `plots.memory_bars`."""
    return {name: {part: getattr(row, part) / MB for part in PARTS} for name, row in costs.items()}


def noise(costs: Mapping[str, Row]) -> float:
    r"""One draw of the noise of step times: how far full fine-tuning, timed against itself, is from 1."""
    return abs(costs["full"].step_ratio - 1) if "full" in costs else 0.0


def trusted(costs: Mapping[str, Row]) -> float:
    r"""The smallest difference of two step times that counts: twice the noise."""
    return 2 * noise(costs)

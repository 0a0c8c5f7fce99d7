r"""The exercise of notebook 06b_intrinsic_dimension that is worked out on paper, with numbers of one's own."""

from __future__ import annotations

from coursekit.checks.draw import Draw
from coursekit.checks.numeric import Numeric


def _model(draw: Draw) -> tuple[int, int, int, int]:
    r"""layers, hidden, kv, r: a decoder whose values are narrower than its queries (grouped-query attention)."""
    hidden = 64 * draw.whole(6, 64)
    return draw.whole(12, 48), hidden, hidden // draw.pick((2, 4, 8)), draw.pick((2, 4, 8, 16, 32))


def estimate(layers: int, hidden: int, kv: int, r: int) -> int:
    r"""Query matrices are (hidden, hidden), value matrices (kv, hidden); A is (r, d_in), B is (d_out, r)."""
    return layers * r * ((hidden + hidden) + (hidden + kv))


ESTIMATE = Numeric(
    id="lora-estimate",
    points=1,
    difficulty=2,
    minutes=5,
    given=("layers", "hidden", "kv", "r"),
    secret=_model,
    reference=estimate,
    mutants={
        "the value matrix is narrower: its d_out is kv, not hidden": (
            lambda layers, hidden, kv, r: layers * r * 4 * hidden
        ),
        "this is one layer; every layer has its own A and B": (lambda layers, hidden, kv, r: r * (3 * hidden + kv)),
        "this is the query matrices alone, or all A without B: both matrices have both": (
            lambda layers, hidden, kv, r: layers * r * 2 * hidden
        ),
        "these are the value matrices alone; the query matrices have A and B too": (
            lambda layers, hidden, kv, r: layers * r * (hidden + kv)
        ),
        "a query matrix is hidden wide on both sides: A and B have r * hidden numbers each": (
            lambda layers, hidden, kv, r: layers * r * (2 * hidden + kv)
        ),
        "these are the frozen matrices; A and B are what trains": (
            lambda layers, hidden, kv, r: layers * hidden * (hidden + kv)
        ),
        "these are the bytes in fp32; the question is how many parameters": (
            lambda layers, hidden, kv, r: 4 * layers * r * (3 * hidden + kv)
        ),
    },
)

r"""What a trained model keeps when its weights are rounded: MiniLM, every linear layer of it, in blocks of 64."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from topics._film import SETTING, arm
from torch import nn

from coursekit.comparison.candidates import CANDIDATES
from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Grid
from coursekit.qlora.rounded import rounded

__all__ = ["GRID", "SETTING"]

#: Name of the state -> codebook, and whether the scales are quantized too.
FORMATS = {name: (name, False) for name in ("int8", "int4", "fp4", "e2m1", "nf4", "int3", "nf3", "nf2")}
FORMATS["nf4, double"] = ("nf4", True)


@contextmanager
def in_format(model: nn.Module, bench: Bench, seed: int, code: str, double: bool) -> Iterator[None]:
    with rounded(model, code, 64, double):
        yield


GRID = Grid(
    topic="formats",
    arms=(
        arm(
            "full",
            CANDIDATES["full"],
            1e-4,
            also={name: partial(in_format, code=code, double=double) for name, (code, double) in FORMATS.items()},
        ),
    ),
    reference="full",
)

r"""Every method of the course on one task, each at its own learning rate; of some, whether more steps would help."""

from dataclasses import replace

from topics._film import SETTING, arm, reading_the_text

from coursekit.comparison.candidates import EVERY
from coursekit.experiments.recipe import Grid

__all__ = ["GRID", "METHODS", "SETTING"]

#: Where the search begins: for hundreds of steps, below what a few dozen steps want. It goes on by itself.
RATES = {
    "head": 1e-1, "full": 1e-4, "houlsby": 3e-3, "pfeiffer": 3e-3, "parallel": 3e-3, "lin": 3e-3, "adapter-drop": 1e-2,
    "sparse-adapter": 3e-3, "ia3": 3e-2, "prompt": 1e-1, "prefix": 3e-2, "p-tuning": 3e-4, "bitfit": 3e-3,
    "bitfit-query": 1e-2, "norms": 3e-3, "top-layers": 3e-4, "attention": 3e-4, "fish-mask": 1e-2, "random-mask": 1e-2,
    "shira": 1e-2, "far": 3e-3, "rows": 1e-3, "said": 1e-1, "lora": 3e-3, "lora-all-linear": 1e-3,
    "dora": 3e-3, "vera": 3e-2, "oft": 3e-3, "qlora": 1e-3, "lora-bitfit": 3e-3, "compacter": 1e-2,
    "compacter-plus": 1e-2, "mam": 3e-4, "unipelt": 3e-3,
}  # fmt: skip

#: Are 300 steps enough? Asked of these.
DOUBLED = ("full", "pfeiffer", "ia3", "bitfit", "lora", "prompt", "prefix")

METHODS = {name: candidate for name, candidate in EVERY.items() if name in RATES}
#: The head reads the text in all of them, and not the first virtual token.
METHODS |= {name: replace(METHODS[name], attach=reading_the_text) for name in ("prompt", "p-tuning")}

GRID = Grid(
    topic="methods",
    arms=tuple(arm(name, METHODS[name], rate, doublings=int(name in DOUBLED)) for name, rate in RATES.items()),
    reference="full",
    best_seeds=5,
)

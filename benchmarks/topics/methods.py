r"""Every method of the course on one task, each at its own learning rate and trained until its curve is flat."""

from __future__ import annotations

from dataclasses import replace

from coursekit.comparison.bench import Setting
from coursekit.comparison.candidates import CANDIDATES, Candidate
from coursekit.comparison.evidence.grid import Arm, Grid
from coursekit.comparison.rates import around
from coursekit.methods import FishMask, LoRA

SETTING = Setting("film", "two", "minilm", batch_size=16, sentences=500, validation=500)

#: Where the search begins: for hundreds of steps, below what a few dozen steps want. It goes on by itself.
RATES = {
    "head": 1e-1, "full": 1e-4, "houlsby": 3e-3, "pfeiffer": 3e-3, "parallel": 3e-3, "lin": 3e-3, "adapter-drop": 1e-2,
    "sparse-adapter": 3e-3, "ia3": 3e-2, "prompt": 3e-1, "prefix": 3e-2, "p-tuning": 3e-4, "bitfit": 3e-3,
    "bitfit-query": 1e-2, "norms": 3e-3, "top-layers": 3e-4, "attention": 3e-4, "fish-mask": 1e-2, "random-mask": 1e-2,
    "far": 3e-3, "rows": 1e-3, "said": 1e-1, "lora": 3e-3, "lora-all-linear": 1e-3, "dora": 3e-3, "qlora": 1e-3,
    "lora-bitfit": 3e-3, "compacter": 1e-2, "compacter-plus": 1e-2, "mam": 3e-4, "unipelt": 3e-3,
}  # fmt: skip

#: Beside the candidates of `coursekit compare`: what a fair comparison of two of them needs.
MORE = {
    # QLoRA's targets without its 4-bit base.
    "lora-all-linear": Candidate("reparameterised", LoRA(r=8, alpha=16, targets="all-linear"), 1e-3),
    # As many entries as the Fisher mask chooses, by chance.
    "random-mask": replace(CANDIDATES["fish-mask"], method=FishMask(keep=0.005, score="random")),
}

METHODS = {name: candidate for name, candidate in (CANDIDATES | MORE).items() if name in RATES}

GRID = Grid(
    topic="methods",
    arms=tuple(
        Arm(name, METHODS[name], tuple(around(rate)), {"method": name, "family": METHODS[name].family})
        for name, rate in RATES.items()
    ),
    reference="full",
    steps=300,
    most_steps=1200,
    every=50,
)

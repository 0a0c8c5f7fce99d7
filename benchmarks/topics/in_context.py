r"""Examples in the prompt against examples in training: SmolLM2 grades film reviews in five grades.

`5 shots`: so many fixed examples stand in the prompt, nothing is trained. `LoRA on 100`: trained on the first so many
examples, at a learning rate that was not searched. `LoRA on the prompt's 10`: on the very ones of the prompt, its rate
searched on validation sentences. `tokens`: of a prompt, on average; `query_seconds`: for a query that shares nothing
with others. The first runs kept how many answers were right (`count:`), and not which.
"""

import time
from typing import NamedTuple

from coursekit.evaluation.in_context import ask, prompt_examples
from coursekit.experiments.bench import Bench, Setting
from coursekit.experiments.recipe import Arm, Grid, neighbours
from coursekit.experiments.table import Cell, Run
from coursekit.methods import LoRA, trainable
from coursekit.training import fit, seed_everything

SETTING = Setting("film", "five", "smollm2", batch_size=8, sentences=300, validation=300)
IN_PROMPT = (0, 1, 2, 5, 10)
#: Examples -> steps of 8: at least one time through, and enough to learn anything from few.
STEPS = {10: 20, 100: 40, 1000: 125}
#: Of the prompt's own examples.
OWN, TIMED = 10, 16


class Given(NamedTuple):
    r"""So many examples, in the prompt, the prompt's own in training, or the first ones in training."""

    how: str
    examples: int


GRID = Grid(
    topic="in_context",
    arms=(
        *(Arm(f"{n} shots", Given("shots", n), (0.0,), 0, seeds=(0,)) for n in IN_PROMPT),
        *(Arm(f"LoRA on {n}", Given("first", n), (1e-3,), STEPS[n]) for n in STEPS),
        Arm(f"LoRA on the prompt's {OWN}", Given("own", OWN), neighbours(1e-3), STEPS[OWN]),
    ),
    reference="10 shots",
    steps=20,
)


def carry(bench: Bench, given: Given, cell: Cell) -> list[Run]:
    r"""Train as the cell says, and ask. Validation sentences only where a rate is searched."""
    start, model = time.perf_counter(), bench.model(cell.seed)
    prepared, curve, limit = bench.prepared, (), SETTING.sentences
    if given.how == "shots":
        found = ask(model, prepared, given.examples, limit, TIMED)
    else:
        few = prepared.take(given.examples) if given.how == "first" else prompt_examples(prepared, given.examples)
        seed_everything(cell.seed)  # of LoRA's start
        LoRA(r=8, targets="all-linear").attach(model)
        fit(model, few, steps=cell.steps, batch_size=SETTING.batch_size, lr=cell.rate, seed=cell.seed, progress=False)
        if given.how == "own":
            curve = ((cell.steps, ask(model, prepared, 0, SETTING.validation, TIMED, "validation").score.value),)
        found = ask(model, prepared, 0, limit, TIMED)
    more = {"tokens": f"{found.tokens:.1f}", "query_seconds": f"{found.seconds:.4f}"}
    trained = trainable(model) if cell.steps else 0
    correct = tuple(found.score.correct.tolist())
    return [Run(cell, curve, correct, trained, time.perf_counter() - start, more=more)]

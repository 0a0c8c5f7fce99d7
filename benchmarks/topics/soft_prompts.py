r"""Soft prompts: how many vectors, where they start, in front of the text or in every block, and what makes them.

The head reads the same in every row, the pooled [CLS] of the text: virtual tokens are taken out before it (peft's
classifier reads position 0, which would be the first of them). A prefix has none in the sequence.
"""

from topics._film import SETTING, arm, reading_the_text
from topics.ia3 import FEW_STEPS
from topics.methods import METHODS

from coursekit.comparison.candidates import CANDIDATES, Candidate
from coursekit.experiments.recipe import Arm, Grid
from coursekit.experiments.table import few
from coursekit.methods import PrefixTuning, PromptTuning, PTuning
from coursekit.methods.mechanism.method import Method

__all__ = ["GRID", "SETTING"]

#: "Is this film review negative or positive?" in MiniLM's vocabulary.
QUESTION = (2003, 2023, 2143, 3319, 4997, 2030, 3893, 1029)


#: What is trained on few sentences too.
SCARCE = (
    ("full", CANDIDATES["full"], 1e-4),
    ("prompt-20", METHODS["prompt"], 1e-1),
    ("prefix-20", METHODS["prefix"], 3e-2),
)


def soft(name: str, method: Method, rate: float, **of: object) -> Arm:
    r"""One soft prompt, its search beginning around `rate`."""
    return arm(name, Candidate("additive", method, rate, reading_the_text), rate, **of)


GRID = Grid(
    topic="soft_prompts",
    arms=(
        arm("head", CANDIDATES["head"], 1e-1),
        arm("full", CANDIDATES["full"], 1e-4),
        soft("prompt-20", PromptTuning(n=20), 1e-1),
        arm("prefix-20", METHODS["prefix"], 3e-2),
        *(soft(f"prompt-{n}", PromptTuning(n=n), 1e-1) for n in (1, 5)),
        soft("prefix-1", PrefixTuning(n=1), 3e-2),
        # The start, at 20 vectors: above from words of the vocabulary.
        soft("prompt-20-random", PromptTuning(n=20, init="random"), 1e-1),
        soft("prompt-20-text", PromptTuning(n=20, init="text", init_ids=QUESTION), 1e-1),
        # Made by a network while it trains.
        soft("prefix-20-network", PrefixTuning(n=20, hidden=512), 1e-3),
        arm("p-tuning-lstm", METHODS["p-tuning"], 3e-4),
        soft("p-tuning-mlp", PTuning(n=20, encoder="mlp"), 1e-3),
        # With few training sentences, as in `ia3`.
        *(
            arm(few(name, n), candidate, rate, FEW_STEPS, examples=n)
            for n in (16, 128)
            for name, candidate, rate in SCARCE
        ),
    ),
    reference="full",
)  # fmt: skip

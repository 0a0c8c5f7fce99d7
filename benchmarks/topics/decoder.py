r"""A decoder on the same task: LLaMA-Adapter, for decoders alone, beside LoRA, an adapter, (IA)³ and a soft prompt."""

from dataclasses import replace

from topics._film import SETTING as ENCODER
from topics._film import arm

from coursekit.comparison.candidates import CANDIDATES
from coursekit.experiments.recipe import Grid

__all__ = ["GRID", "SETTING"]

#: SmolLM2 answers with a word. A step takes more than ten times as long as one of MiniLM: small batches, few steps.
#: Products are in bfloat16, as everywhere (`Recipe.autocast`): on a CPU with AMX three quarters of a step's time.
SETTING = replace(ENCODER, model="smollm2", batch_size=8, sentences=500, validation=200)
RATES = {"lora": 1e-3, "ia3": 1e-2, "pfeiffer": 1e-3, "llama-adapter": 1e-2, "prompt": 1e-1}
#: The rates that were chosen, run once more: for the margins, which the first runs did not keep, and for what another
#: processor's rounding changes.
AGAIN = {"lora": 3e-3, "prompt": 1e-1}

GRID = Grid(
    topic="decoder",
    arms=(
        *(arm(name, CANDIDATES[name], rate) for name, rate in RATES.items()),
        *(replace(arm(f"{name} again", CANDIDATES[name], rate), rates=(rate,)) for name, rate in AGAIN.items()),
    ),
    reference="lora",
    steps=100,
    points=4,
)

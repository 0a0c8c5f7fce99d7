r"""What preference tuning moves: lesson 00's stages 2 and 3, as its cells run them, on held-out pairs.

`DPO`: sixteen steps of stage 2, then twelve of two pairs; the lesson's own run is shorter. `chosen alone`: in the place
of DPO's loss that of instruction tuning, on the chosen answers of the same pairs. A seed draws LoRA's start and the
examples of stage 2, and has 24 training pairs of its own. The held-out pairs are the same for all, of at most twelve
words: film reviews under the arm's name, and product reviews, which nothing is trained on. Right is a pair with a
margin above 0. For each pair: `chosen` and `rejected`, ln π/π₀ of the answers in nats, against the model of stage 2;
`margin`, their difference; `likelier`, 1 where the chosen answer is the likelier one, and `likelier_before`, the same
for π₀. Of the lesson's unseen instructions, loss in nats a token: `instructed` and `instructed_end` after stage 2,
`aligned` and `aligned_end` after stage 3; `end` is the end token. `wrote`: the likeliest sentence of such a review. No
learning rate was searched: it is the lesson's.
"""

import time
from typing import Any

import torch
from topics._page import Page

from coursekit.experiments import machine
from coursekit.experiments.recipe import Arm, Grid
from coursekit.experiments.table import Cell, Run, state
from coursekit.methods import trainable
from coursekit.tasks.instructions import instruction_prompt

SETTING = None
#: Where the lesson's own run is shorter. Of product reviews there are but 22 pairs. The unseen instructions are the
#: first ones, not one in four.
LONGER = {"tuning_steps": 16, "unseen_answers": 12, "unseen_step": 1, "held_out_pairs": 24}

GRID = Grid(
    topic="dpo", arms=(Arm("DPO", "both", (1e-3,)), Arm("chosen alone", "chosen", (1e-3,))), reference="DPO", steps=12
)


def carry(bench: None, learns: str, cell: Cell, **parameters: int) -> list[Run]:
    r"""One run: stage 2, then stage 3. parameters: of the lesson."""
    start, page = time.perf_counter(), Page("00_training_cycle")
    page.run("00-004", "00-005")
    page.update(LONGER | parameters, seed=cell.seed, preference_steps=cell.steps)
    longest, page["longest_answer"] = page["longest_answer"], 1  # what stages 1 and 2 write is not kept
    page.run("00-007", "00-012", "00-015", "00-045", "00-021", "00-024", "00-026", "00-029", "00-032")
    train, model, loss_of = page["train"], page["model"], page["preference_loss"]

    def chosen_alone(model: Any, batch: Any) -> Any:
        rows = [page["encode"](instruction_prompt(page["tokenizer"], p["prompt"]), p["chosen"]) for p in batch[0]]
        return page["next_token_loss"](model, page["batch_of"](rows))

    page["preference_loss"] = loss_of if learns == "both" else chosen_alone
    page["train"] = lambda model, batches, loss_of, lr: train(model, batches, loss_of, cell.rate)
    page["longest_answer"] = longest
    page.run("00-033")

    after, runs = page["losses_on"](*page["unseen"]), []
    kept = {"processor": machine.device_name(model.device)}
    for name, losses in (("instructed", page["found"]["instructed"]), ("aligned", after)):
        kept |= {name: f"{losses[0]:.4f}", f"{name}_end": f"{losses[1]:.4f}"}
    for which, pairs in page["held"].items():
        with torch.no_grad():
            now = page["answer_logps"](model, pairs)
        (won, lost), old = (now - page["before"][which]).chunk(2), page["before"][which].chunk(2)
        film = which == "film reviews"
        values = {
            "chosen": won, "rejected": lost, "margin": won - lost, "likelier": now.chunk(2)[0] > now.chunk(2)[1],
            "likelier_before": old[0] > old[1],
        }  # fmt: skip
        more = {name: " ".join(f"{x:.4g}" for x in one.float().tolist()) for name, one in values.items()}
        more |= kept | {"wrote": page["answers"]["aligned"][3 if film else 4]}
        own = cell if film else Cell(state(cell.arm, "product reviews"), cell.steps, cell.rate, cell.seed)
        correct = tuple((won > lost).tolist())
        runs.append(Run(own, (), correct, trainable(model), time.perf_counter() - start, more=more))
        start = time.perf_counter()
    return runs

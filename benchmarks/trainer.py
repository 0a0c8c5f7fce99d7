r"""How long until the model is good: `training.fit` against `transformers.Trainer` with peft, on the same task.

    OMP_NUM_THREADS=1 python benchmarks/trainer.py --seeds 0 1 2        # Ctrl-C whenever you like: a line a run

All train the same LoRA on MiniLM, with the same batch size, learning rate, schedule and seed, until a look at the
validation sentences (every 25 steps, its time left out) finds `--target` accuracy twice in a row. Three take turns:
fit with batches by length, the Trainer as it is, the Trainer with its own `group_by_length`. Times are the process's
CPU time, so that what else the machine does is not in them. At the end: the ratio of the sums over the seeds.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import suppress

import peft
import torch
import transformers
from torch import nn

from coursekit import training
from coursekit.errors import CourseError
from coursekit.evaluation import accuracy
from coursekit.methods import LoRA
from coursekit.models import load_encoder
from coursekit.tasks import load_task
from coursekit.tasks.prepared import Prepared

BATCH, EVERY = 16, 25


class Reached(Exception):
    r"""The target is reached: no further step."""


class Watch:
    r"""Looks at the validation sentences every `EVERY` steps, with the clock stopped."""

    def __init__(self, model: nn.Module, prepared: Prepared, target: float):
        self.model, self.prepared, self.target = model, prepared, target
        self.seconds, self.curve, self.since = 0.0, [], time.process_time()

    def __call__(self, step: int) -> None:
        if step % EVERY:
            return
        self.seconds += time.process_time() - self.since
        score = accuracy(self.model, self.prepared, "validation", progress=False)
        self.curve.append((step, score.value))
        self.model.train()
        self.since = time.process_time()
        if len(self.curve) > 1 and min(value for _, value in self.curve[-2:]) >= self.target:
            raise Reached


def ours(prepared: Prepared, seed: int, asked: argparse.Namespace) -> Watch:
    model, _ = load_encoder("minilm", num_labels=2, seed=seed)
    torch.manual_seed(seed)
    LoRA(r=8, alpha=16).attach(model)
    watch = Watch(model, prepared, asked.target)
    with suppress(Reached):
        training.fit(
            model, prepared, steps=asked.steps, batch_size=BATCH, lr=asked.lr, seed=seed, bucket=True,
            after_step=watch, progress=False,
        )  # fmt: skip
    return watch


def theirs(prepared: Prepared, seed: int, asked: argparse.Namespace, by_length: bool = False) -> Watch:
    base, tokenizer = load_encoder("minilm", num_labels=2, seed=seed)
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], task_type="SEQ_CLS")
    model = peft.get_peft_model(base, config)
    watch = Watch(model, prepared, asked.target)

    class Look(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            try:
                watch(state.global_step)
            except Reached:
                control.should_training_stop = True

    arguments = transformers.TrainingArguments(
        output_dir=asked.scratch, max_steps=asked.steps, per_device_train_batch_size=BATCH, learning_rate=asked.lr,
        warmup_steps=asked.steps // 10, weight_decay=0.0, seed=seed, report_to="none", save_strategy="no",
        logging_strategy="no", disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
        train_sampling_strategy="group_by_length" if by_length else "random",
    )  # fmt: skip
    data = prepared.split("train").select_columns(["input_ids", "attention_mask", "labels"])
    collate = transformers.DataCollatorWithPadding(tokenizer)
    trainer = transformers.Trainer(model, arguments, train_dataset=data, data_collator=collate, callbacks=[Look()])
    trainer.train()
    return watch


WAYS: dict[str, Callable[[Prepared, int, argparse.Namespace], Watch]] = {
    "fit": ours,
    "Trainer": theirs,
    "Trainer, by length": lambda prepared, seed, asked: theirs(prepared, seed, asked, by_length=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--target", type=float, default=0.8, help="validation accuracy")
    parser.add_argument("--steps", type=int, default=400, help="that the schedule is made for")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--scratch", default="runs/trainer", help="the Trainer's folder")
    asked = parser.parse_args()
    transformers.logging.set_verbosity_error()
    _, tokenizer = load_encoder("minilm", num_labels=2)
    prepared = load_task("film", "two").for_encoder(tokenizer)
    total = dict.fromkeys(WAYS, 0.0)
    for seed in asked.seeds:
        for name, way in WAYS.items():
            watch = way(prepared, seed, asked)
            total[name] += watch.seconds
            line = {"way": name, "seed": seed, "cpu_seconds": round(watch.seconds, 1), "curve": watch.curve}
            print(json.dumps(line), flush=True)
    for name in WAYS:
        print(f"{name}: {total[name]:.0f} s, fit / this = {total['fit'] / total[name]:.2f}")


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        raise SystemExit(f"trainer: {error}") from error

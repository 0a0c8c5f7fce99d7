r"""What all runs of one comparison share: the model, the text, one batch to measure on, the step to be measured by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from coursekit import training
from coursekit.methods import FullFineTuning
from coursekit.models import is_encoder, load_decoder, load_encoder
from coursekit.tasks.prepared import Prepared
from coursekit.tasks.task import Task, load_task

#: Sentences that methods may look at before they train.
LOOKED_AT = 128


@dataclass(frozen=True)
class Setting:
    r"""What the runs of one file have in common.

    domain, labels: as for `load_task`; a decoder answers with a word, an encoder with a class. model: as for
    `load_encoder` or `load_decoder`. sentences: of the test split, for a run. validation: of the validation split, to
    choose a learning rate.
    """

    domain: str = "film"
    labels: str = "two"
    model: str = "minilm"
    steps: int = 40
    batch_size: int = 16
    sentences: int = 500
    validation: int = 300


class Bench:
    r"""Model and task of a `Setting`, loaded. task: of its own, where `load_task` does not know it."""

    def __init__(self, setting: Setting, task: Task | None = None):
        self.setting = setting
        task = task or load_task(setting.domain, setting.labels)
        self.encoder = is_encoder(setting.model)
        self.labels = len(task.labels)
        model, tokenizer = self._load(0)
        self.device, self.dtype, self.config = model.device, model.dtype, model.config
        self.prepared: Prepared = task.for_encoder(tokenizer) if self.encoder else task.for_decoder(tokenizer)
        self.majority = task.majority

    def model(self, seed: int) -> nn.Module:
        r"""The model as it was before anything trained; `seed` draws the head of an encoder."""
        return self._load(seed)[0]

    def fit(
        self, model: nn.Module, seed: int, lr: float, steps: int | None = None, *, batch_size: int | None = None,
        examples: int | None = None, bucket: bool = False, after_step: Callable[[int], Any] | None = None,
    ) -> training.History:  # fmt: skip
        r"""Train `model` on the task, for as many steps of as many rows as the setting says unless `steps` and
        `batch_size` do. examples: only so many training sentences, drawn by `seed`. bucket, after_step: as in
        `training.fit`.
        """
        setting = self.setting
        return training.fit(
            model, self.prepared if examples is None else self._few(examples, seed), steps=steps or setting.steps,
            batch_size=batch_size or setting.batch_size, lr=lr, seed=seed, bucket=bucket, after_step=after_step,
            progress=False,
        )  # fmt: skip

    def sentences(self, split: str) -> int:
        r"""How many sentences of "validation" or "test" are asked: as many as were wanted, or as there are."""
        wanted = self.setting.sentences if split == "test" else self.setting.validation
        return min(wanted, len(self.prepared.split(split)))

    @cached_property
    def batch(self) -> dict[str, Tensor]:
        r"""The batch on which memory and steps are measured, the same for all: the first of a training with seed 0."""
        return self._batches(self.setting.batch_size, 0)[0]

    def looked_at(self, seed: int) -> list[dict[str, Tensor]]:
        r"""Training sentences for a method that looks at the task before it trains."""
        return self._batches(LOOKED_AT, seed)

    @cached_property
    def reference(self) -> nn.Module:
        r"""A model whose every weight trains: what all steps are measured by."""
        return FullFineTuning().attach(self.model(0))

    def _few(self, examples: int, seed: int) -> Prepared:
        train = self.prepared.split("train")
        rows = training.rows_of_step(len(train), examples, seed, 0)
        return self.prepared.with_rows("train", train.select(rows))

    def _batches(self, rows: int, seed: int) -> list[dict[str, Tensor]]:
        train = self.prepared.split("train")
        chosen = training.rows_of_step(len(train), rows, seed, 0)
        size, found = self.setting.batch_size, []
        for start in range(0, rows, size):
            batch = self.prepared.collate(train.select(chosen[start : start + size]).to_list())
            found.append({key: value.to(self.device) for key, value in batch.items()})
        return found

    def _load(self, seed: int) -> tuple[nn.Module, Any]:
        if self.encoder:
            return load_encoder(self.setting.model, num_labels=self.labels, seed=seed)
        return load_decoder(self.setting.model)

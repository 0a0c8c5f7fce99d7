r"""Tokenised data, ready for the training loop and for evaluation, and how rows become a batch."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from coursekit.errors import CourseError, unknown
from coursekit.labels import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from coursekit.tasks.conversations import Cut
    from coursekit.tasks.task import Task

#: The kinds of attention in transformers that keep the examples of packed rows apart whatever the batch.
_PACKED = ("sdpa", "eager", "flex_attention")


@dataclass(frozen=True)
class Prepared:
    r"""One data set in the token ids of one tokenizer.

    data: splits with `input_ids`, `attention_mask` and `labels`. For an encoder a label is a class (int) or a
    rating (float); for a decoder `labels` repeats `input_ids` with the prompt replaced by −100, so that only
    the answer counts.
    task: where the rows come from, None for data without classes (instructions).
    left_out: examples that were too long, and what a cut would have taken away; see `coursekit.tasks.conversations`.
    """

    name: str
    kind: Literal["encoder", "decoder"]
    tokenizer: Any
    data: DatasetDict
    max_length: int
    task: Task | None = None
    left_out: tuple[Cut, ...] = ()

    def split(self, name: str) -> Dataset:
        r"""One split. Raises CourseError for an unknown or empty one."""
        if name not in self.data:
            raise unknown("split", name, self.data)
        if not len(self.data[name]):
            raise CourseError(f"the {name} split of {self.name} is empty")
        return self.data[name]

    def take(self, n: int, split: str = "train") -> Prepared:
        r"""The same data with only the first `n` rows (a fair sample: the order is shuffled once and fixed)
        of `split`.
        """
        rows = self.split(split)
        if not 0 < n <= len(rows):
            raise CourseError(f"take({n}): the {split} split of {self.name} has {len(rows)} rows")
        data = type(self.data)(dict(self.data) | {split: rows.select(range(n))})
        return replace(self, data=data)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        r"""A batch from rows: `input_ids` and `attention_mask` (batch, seq), padded on the right to the
        longest row.

        `labels` is (batch,) for an encoder, and (batch, seq) with −100 on prompt and padding for a decoder.
        """
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {
            "input_ids": _pad([row["input_ids"] for row in rows], longest, pad_id(self.tokenizer)),
            "attention_mask": _pad([row["attention_mask"] for row in rows], longest, 0),
        }
        labels = [row["labels"] for row in rows]
        batch["labels"] = torch.tensor(labels) if self.kind == "encoder" else _pad(labels, longest, IGNORED)
        if "position_ids" in rows[0]:
            batch["position_ids"] = _pad([row["position_ids"] for row in rows], longest, 0)
        return batch

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        r"""What of a batch the model is given. Of packed rows not the mask: transformers keeps the examples of a row
        apart by their positions only where there is none (and no cache: `fit` turns it off).
        """
        packed = "position_ids" in batch
        return {name: tensor for name, tensor in batch.items() if not (packed and name == "attention_mask")}

    def check(self, model: nn.Module, split: str) -> None:
        r"""Raise CourseError where `split` is packed and `model` would not keep the examples of a row apart."""
        if "position_ids" not in self.split(split).column_names:
            return
        attention = getattr(model.config, "_attn_implementation", None)
        if "position_ids" not in inspect.signature(model.forward).parameters:
            raise CourseError(
                f"{type(model).__name__} reads no positions, so packed examples would see each other: prepare with "
                "packed=False"
            )
        if attention not in _PACKED:
            raise CourseError(
                f"packed examples would see each other with attention={attention!r}: load the model with "
                f"attention={_PACKED[0]!r}, or prepare with packed=False"
            )
        from coursekit.methods import PromptTuning, PTuning, attached

        for method in attached(model).values():
            if isinstance(method, PromptTuning | PTuning):
                raise CourseError(
                    f"{type(method).__name__} puts its tokens in front of a row, and a packed row has several "
                    "examples: prepare with packed=False"
                )

    def weight(self, batch: dict[str, Tensor]) -> int:
        r"""What the mean loss of `batch` runs over: rows of a classifier, tokens that have something before them
        otherwise.
        """
        labels = batch["labels"]
        return len(labels) if labels.ndim == 1 else max(1, int((labels[:, 1:] != IGNORED).sum()))


def pad_id(tokenizer: Any) -> int:
    r"""The id to pad with. What it is does not matter, it is masked: the end-of-text token serves where none
    is set.
    """
    return next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)


def _pad(rows: list[list[int]], length: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])

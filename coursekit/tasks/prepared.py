r"""Tokenised data, ready for the training loop and for evaluation, and how rows become a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from coursekit.errors import CourseError, one_of, whole
from coursekit.labels import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


@dataclass(frozen=True)
class Prepared:
    r"""One data set in the token ids of one tokenizer.

    data: splits with `input_ids`, `attention_mask` and `labels`. For an encoder a label is a class (int) or a
    rating (float); for a decoder `labels` repeats `input_ids` with the prompt replaced by −100, so that only
    the answer counts.
    """

    name: str
    kind: Literal["encoder", "decoder"]
    tokenizer: Any
    data: DatasetDict
    max_length: int

    def split(self, name: str) -> Dataset:
        r"""One split. Raises CourseError for an unknown or empty one."""
        one_of("split", name, self.data)
        if not len(self.data[name]):
            raise CourseError(f"the {name} split of {self.name} is empty")
        return self.data[name]

    def take(self, n: int, split: str = "train") -> Prepared:
        r"""The same data with only the first `n` rows of `split`: a fair sample, as rows are shuffled once and for all.

        Raises CourseError for more rows than there are.
        """
        rows = self.split(split)
        if whole("n", n, least=1) > len(rows):
            raise CourseError(f"take({n}): the {split} split of {self.name} has {len(rows)} rows")
        return self.with_rows(split, rows.select(range(n)))

    def with_rows(self, split: str, rows: Dataset) -> Prepared:
        r"""The same data with other rows in one split."""
        return replace(self, data=type(self.data)(dict(self.data) | {split: rows}))

    def shuffled_labels(self, seed: int) -> Prepared:
        r"""The same training sentences with their labels dealt out anew: a control without anything to learn.

        Raises CourseError for a decoder, whose labels repeat the tokens of their own row.
        """
        if self.kind != "encoder":
            raise CourseError("shuffled_labels: a decoder's labels belong to their row; use an encoder")
        train = self.split("train")
        dealt = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
        old = train[:]["labels"]
        train = train.remove_columns("labels").add_column("labels", [old[i] for i in dealt])
        return self.with_rows("train", train)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        r"""A batch from rows: `input_ids` and `attention_mask` (batch, seq), padded on the right to the longest row.

        `labels` is (batch,) for an encoder, and (batch, seq) with −100 on prompt and padding for a decoder. Raises
        CourseError for a row whose mask or labels are not as long as its tokens.
        """
        for row in rows:
            per_token = ("attention_mask",) if self.kind == "encoder" else ("attention_mask", "labels")
            for name in per_token:
                if len(row[name]) != len(row["input_ids"]):
                    raise CourseError(
                        f"a row of {self.name} has {len(row['input_ids'])} input_ids and {len(row[name])} {name}: "
                        "there must be one for each token"
                    )
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {
            "input_ids": _pad([row["input_ids"] for row in rows], longest, pad_id(self.tokenizer)),
            "attention_mask": _pad([row["attention_mask"] for row in rows], longest, 0),
        }
        labels = [row["labels"] for row in rows]
        batch["labels"] = torch.tensor(labels) if self.kind == "encoder" else _pad(labels, longest, IGNORED)
        return batch

    def batches(
        self, split: str, batch_size: int, limit: int | None = None, device: str | torch.device = "cpu"
    ) -> Iterator[dict[str, Tensor]]:
        r"""The first `limit` rows of `split` (all by default) in their order, as batches on `device`.

        The last batch may be smaller. Raises CourseError for a limit or size below 1.
        """
        rows, size = self.split(split), whole("batch_size", batch_size, least=1)
        count = len(rows) if limit is None else min(whole("limit", limit, least=1), len(rows))
        for start in range(0, count, size):
            batch = self.collate(rows.select(range(start, min(start + size, count))).to_list())
            yield {name: tensor.to(device) for name, tensor in batch.items()}

    def lengths(self, split: str) -> list[int]:
        r"""The tokens of every row of `split`."""
        column = self.split(split).select_columns(["input_ids"]).with_format("arrow")[:]["input_ids"]
        return [length for chunk in column.chunks for length in chunk.value_lengths().to_pylist()]

    def weight(self, batch: dict[str, Tensor]) -> int:
        r"""What the mean loss of `batch` is a mean of: rows of a classifier, else tokens with one before them."""
        labels = batch["labels"]
        return len(labels) if labels.ndim == 1 else max(1, int((labels[:, 1:] != IGNORED).sum()))


def answer_rows(prompts: Iterable[list[int]], answers: Iterable[list[int]]) -> dict[str, list]:
    r"""Rows for a decoder: each prompt with its answer, of which alone the labels are."""
    pairs = list(zip(prompts, answers, strict=True))
    return {
        "input_ids": [prompt + answer for prompt, answer in pairs],
        "attention_mask": [[1] * len(prompt + answer) for prompt, answer in pairs],
        "labels": [[IGNORED] * len(prompt) + answer for prompt, answer in pairs],
    }


def pad_id(tokenizer: Any) -> int:
    r"""The id to pad with: the end-of-text token where no other is set. It is masked, so that any would do."""
    return next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)


def _pad(rows: list[list[int]], length: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])

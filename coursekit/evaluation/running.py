r"""How every score is computed: in eval mode, without gradients, texts of equal or of similar length together.

So there is no padding to mask or to skip, and little or none to pay for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from tqdm.auto import tqdm

from coursekit.errors import whole
from coursekit.modes import in_mode

if TYPE_CHECKING:
    from datasets import Dataset


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    r"""Eval mode without gradients; the model is left in the mode it was found in."""
    with in_mode(model, training=False), torch.inference_mode():
        yield


def equal_lengths(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    r"""Indices of rows, at most `batch_size` at a time and all of one length, the longest first.

    The longest first: whether the memory suffices shows at once.
    """
    return similar_lengths(rows, batch_size, spread=0)


def similar_lengths(rows: Sequence[Sequence[int]], batch_size: int, spread: int = 8) -> Iterator[list[int]]:
    r"""Indices of rows, at most `batch_size` at a time and none over `spread` shorter than its batch's first, the
    longest first.

    Fewer and larger batches than `equal_lengths`, for decoders asked about a row's last token: no token attends to
    what comes after it, so the rest of a row may be filled with anything.
    """
    group: list[int] = []
    for index in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        if group and (len(group) == batch_size or len(rows[group[0]]) - len(rows[index]) > spread):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def first_rows(rows: Dataset, limit: int | None) -> dict[str, list]:
    r"""The first `limit` rows, all by default, column by column. Raises CourseError for a limit below 1."""
    return rows[: None if limit is None else whole("limit", limit, least=1)]


def device_of(model: nn.Module) -> torch.device:
    r"""Where a model is, by its first parameter."""
    return next(model.parameters()).device


def progress_bar(total: int, what: str, progress: bool) -> tqdm:
    r"""A bar that goes away when it is full."""
    return tqdm(total=total, desc=what, disable=not progress, leave=False)

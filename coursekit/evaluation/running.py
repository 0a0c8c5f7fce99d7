r"""How every score is computed: in eval mode, without gradients, texts of equal or of similar length together.

So there is no padding to mask or to skip, and little or none to pay for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from coursekit.errors import CourseError, short, whole
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


def text_list(name: str, texts: Sequence[str]) -> list[str]:
    r"""`texts` as a list. Raises CourseError for one text, whose letters would be taken for texts, and for no texts."""
    if isinstance(texts, str | bytes) or not all(isinstance(text, str) for text in texts):
        raise CourseError(f"{name} must be a list of texts, such as ['Hello']; got {short(texts)}.")
    return list(texts)


def token_ids(model: nn.Module, tokenizer: Any, name: str, texts: Sequence[str], **settings: Any) -> list[list[int]]:
    r"""The token ids of `texts`, for a model that writes. Raises CourseError where model or tokenizer are none, where
    they do not belong together, and for anything but a list of texts.
    """
    texts = text_list(name, texts)
    if not callable(tokenizer):
        raise CourseError(f"tokenizer must be the one that was loaded with the model; got {short(tokenizer)}.")
    outputs = getattr(model, "get_output_embeddings", lambda: model)
    if outputs() is None:
        raise CourseError(f"{type(model).__name__} does not write text: load a decoder, with load_decoder")
    found = tokenizer(texts, **settings)["input_ids"] if texts else []
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    largest = max((max(ids, default=0) for ids in found), default=0)
    if vocabulary is not None and largest >= vocabulary:
        raise CourseError(
            f"{name} has token {largest}, and {type(model).__name__} knows tokens below {vocabulary}: give the "
            "tokenizer that was loaded with this model"
        )
    return found


def first_rows(rows: Dataset, limit: int | None) -> dict[str, list]:
    r"""The first `limit` rows, all by default, column by column. Raises CourseError for a limit below 1."""
    return rows[: None if limit is None else whole("limit", limit, least=1)]


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    r"""Ids and mask of rows that end at the same place, both (n, longest)."""
    longest = max(map(len, rows), default=0)
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def device_of(model: nn.Module) -> torch.device:
    r"""Where a model is, by its first parameter."""
    return next(model.parameters()).device


def progress_bar(total: int, what: str, progress: bool) -> tqdm:
    r"""A bar that goes away when it is full."""
    return tqdm(total=total, desc=what, disable=not progress, leave=False)

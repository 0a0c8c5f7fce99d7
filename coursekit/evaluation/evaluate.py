r"""What a model can do: accuracy, agreement with ratings, perplexity, generated text and its format.

Everything here runs in eval mode without gradients, and leaves the model in the mode it found it in. Encoded
texts of equal length are computed together, so there is no padding to mask, to skip or to pay for, except in
`generate`.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import DynamicCache

from coursekit.errors import CourseError
from coursekit.evaluation.scores import Perplexity, Regression, Score, wilson
from coursekit.methods.soft_prompts.prompted_cache import HELD
from coursekit.modes import in_mode
from coursekit.tasks.prepared import Prepared, pad_id

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "Perplexity", "Regression", "Score", "accuracy", "answer_loss", "format_adherence", "generate", "perplexity",
    "regression", "score_choices", "wilson",
]  # fmt: skip


def accuracy(
    model: nn.Module,
    prepared: Prepared,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 64,
    *,
    shots: int = 0,
    cache: bool = True,
    progress: bool = True,
) -> Score:
    r"""Share of the first `limit` rows of `split` whose class the model finds.

    An encoder answers with its largest logit, a decoder with the label word whose first token has the largest
    logit after the prompt. shots: that many examples (`task.shots`) come before each prompt of a decoder.
    cache: compute what all prompts begin with only once.

    Raises CourseError for a task without classes, and for examples asked of an encoder.
    """
    rows, task = _first(prepared.split(split), limit), prepared.task
    if task is None or not task.labels:
        raise CourseError(
            f"{prepared.name} has no classes to count: use regression() for ratings, perplexity() for text"
        )
    if prepared.kind == "encoder":
        if shots:
            raise CourseError(
                f"shots={shots}: an encoder reads one sentence, only a decoder can be shown examples"
            )
        logits = _encoder_logits(model, prepared, rows, batch_size, progress)
        return Score.of(logits.argmax(-1) == torch.tensor(rows["labels"]))

    source = _first(task.data[split], len(rows["labels"]))
    texts = task.fitted(prepared.tokenizer, prepared.max_length, source["text"])
    examples = task.shots(shots)
    prompts = prepared.tokenizer([task.prompt(text, examples) for text in texts])["input_ids"]
    choices = [answer[0] for answer in task.answer_ids(prepared.tokenizer)]
    logits = _next_token_logits(model, prompts, choices, batch_size, cache, progress)
    return Score.of(logits.argmax(-1) == torch.tensor(source["label"]))


def regression(
    model: nn.Module,
    prepared: Prepared,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 64,
    *,
    progress: bool = True,
) -> Regression:
    r"""How an encoder with one output agrees with the ratings of the first `limit` rows of `split`."""
    rows = _first(prepared.split(split), limit)
    if prepared.task is None or prepared.task.labels or prepared.kind != "encoder":
        raise CourseError(
            f"{prepared.name} has no ratings to agree with: load_task(..., 'rating').for_encoder(...) has"
        )
    if len(rows["labels"]) < 2:
        raise CourseError("a correlation needs at least two rows")
    logits = _encoder_logits(model, prepared, rows, batch_size, progress)
    if logits.shape[1] != 1:
        raise CourseError(
            f"the model has {logits.shape[1]} outputs: a rating needs load_encoder(..., num_labels=1)"
        )
    predicted, rated = logits[:, 0].double(), torch.tensor(rows["labels"], dtype=torch.float64)
    pearson = torch.corrcoef(torch.stack([predicted, rated]))[0, 1].item()
    return Regression(pearson, (predicted - rated).abs().mean().item(), len(predicted))


def score_choices(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    choices: Sequence[str],
    batch_size: int = 64,
    *,
    cache: bool = True,
    progress: bool = False,
) -> Float[Tensor, "prompts choices"]:
    r"""The logit of each choice's first token after each prompt, on the CPU.

    A choice usually begins with a space. Raises CourseError for two choices that begin with the same token.
    """
    first = [tokenizer(choice, add_special_tokens=False)["input_ids"][:1] for choice in choices]
    if len({tuple(token) for token in first}) < len(choices) or [] in first:
        raise CourseError(
            f"the choices {', '.join(map(repr, choices))} do not begin with a token each of their own"
        )
    ids = tokenizer(list(prompts))["input_ids"]
    return _next_token_logits(model, ids, [token[0] for token in first], batch_size, cache, progress)


def perplexity(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_length: int = 256,
    stride: int | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> Perplexity:
    r"""Perplexity of independent texts; every token counts the same, so long texts weigh more than short
    ones.

    The first token of a text has nothing before it and is not scored. A text of more than `max_length` tokens
    is read in windows that advance by `stride` (half of `max_length` by default); each token is scored once,
    in the first window that holds it, so all but the first window's tokens have at least max_length − stride
    tokens of context.
    """
    stride = stride or max(1, max_length // 2)
    if max_length < 2 or not 1 <= stride < max_length:
        raise CourseError(f"max_length={max_length}, stride={stride}: needed are 1 ≤ stride < max_length")
    texts = list(texts)[:limit]
    windows: list[tuple[list[int], int]] = []
    for ids in tokenizer(texts)["input_ids"] if texts else []:
        windows += _windows(ids, max_length, stride)
    total, tokens = 0.0, 0
    device = _device(model)
    with _evaluating(model), _bar(len(windows), "perplexity", progress) as bar:
        for group in _equal_lengths([ids for ids, _ in windows], batch_size):
            ids = torch.tensor([windows[i][0] for i in group], device=device)
            # Counted from the end: a model may put tokens of its own (soft prompts) first.
            logits = model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] : -1].float()
            targets = ids[:, 1:].clone()
            for row, i in enumerate(group):
                # Position j of the targets is token j + 1 of the window.
                targets[row, : windows[i][1] - 1] = -100
            total += F.cross_entropy(logits.transpose(1, 2), targets, reduction="sum").double().item()
            tokens += int((targets != -100).sum())
            bar.update(len(group))
    if not tokens:
        raise CourseError("no text has two tokens or more: there is nothing to predict")
    return Perplexity(float(torch.tensor(total / tokens, dtype=torch.float64).exp()), tokens, len(texts))


def answer_loss(
    model: nn.Module,
    prepared: Prepared,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 16,
    *,
    progress: bool = True,
) -> float:
    r"""Mean loss in nats of the learned tokens in the first `limit` rows of `split`: what `fit` minimises, held out.

    Raises CourseError for data of an encoder, whose rows have no tokens to learn.
    """
    if prepared.kind != "decoder":
        raise CourseError(f"{prepared.name} is for an encoder: accuracy() or regression() say how it does")
    if "rejected_ids" in prepared.split(split).column_names:
        raise CourseError("pairs have a better and a worse answer: preference_score() says how a model does")
    prepared.check(model, split)
    columns = _first(prepared.split(split), limit)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    rows.sort(key=lambda row: len(row["input_ids"]))  # neighbours are alike in length: little padding
    total, tokens, device = 0.0, 0, _device(model)
    with _evaluating(model), _bar(len(rows), "loss", progress) as bar:
        for start in range(0, len(rows), batch_size):
            batch = prepared.collate(rows[start : start + batch_size])
            n = prepared.weight(batch)
            inputs = {name: tensor.to(device) for name, tensor in prepared.inputs(batch).items()}
            total += model(**inputs, use_cache=False).loss.item() * n
            tokens += n
            bar.update(len(batch["labels"]))
    return total / tokens


def format_adherence(outputs: Sequence[str], pattern: str | re.Pattern[str]) -> Score:
    r"""Share of the outputs that `pattern` describes from end to end, white space around them aside."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise CourseError(f"{pattern!r} is not a regular expression: {error}") from error
    return Score.of(
        torch.tensor([bool(compiled.fullmatch(output.strip())) for output in outputs], dtype=torch.bool)
    )


def generate(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 32,
    batch_size: int = 16,
    add_special_tokens: bool = True,
    progress: bool = True,
    **settings: Any,
) -> list[str]:
    r"""What the model writes after each prompt, greedily unless `settings` (for `model.generate`) say
    otherwise.

    Only the new text is returned, up to the end-of-text token. Prompts are padded on the left, so that all
    rows of a batch go on writing at the same place. add_special_tokens=False: for prompts from a chat
    template.
    """
    settings = {"do_sample": False} | settings
    ids = tokenizer(list(prompts), add_special_tokens=add_special_tokens)["input_ids"] if prompts else []
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    device, pad = _device(model), pad_id(tokenizer)
    texts = [""] * len(ids)
    with _evaluating(model), _bar(len(ids), "generate", progress) as bar:
        for start in range(0, len(order), batch_size):
            group = order[start : start + batch_size]
            longest = len(ids[group[-1]])
            padding = [longest - len(ids[i]) for i in group]
            batch = torch.tensor(
                [[pad] * n + ids[i] for n, i in zip(padding, group, strict=True)], device=device
            )
            mask = torch.tensor([[0] * n + [1] * (longest - n) for n in padding], device=device)
            written = model.generate(
                input_ids=batch,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                **settings,
            )
            for i, text in zip(
                group, tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True), strict=True
            ):
                texts[i] = text
            bar.update(len(group))
    return texts


def _next_token_logits(
    model: nn.Module,
    prompts: list[list[int]],
    choices: list[int],
    batch_size: int,
    cache: bool,
    progress: bool,
) -> Float[Tensor, "prompts choices"]:
    r"""Logits of the `choices` after each prompt. Only the last position goes through the output layer."""
    device = _device(model)
    logits = torch.empty(len(prompts), len(choices))
    with _evaluating(model), _bar(len(prompts), "score", progress) as bar:
        prefix = _PrefixCache(model, prompts) if cache and len(prompts) > 1 else None
        skip = prefix.length if prefix else 0
        for group in _equal_lengths(prompts, batch_size):
            ids = torch.tensor([prompts[i][skip:] for i in group], device=device)
            past = {"cache": prefix.expanded(len(group)), "use_cache": True} if skip else {"use_cache": False}
            logits[group] = (
                model(input_ids=ids, logits_to_keep=1, **past).logits[:, -1, choices].float().cpu()
            )
            bar.update(len(group))
    return logits


class _PrefixCache:
    r"""Keys and values of what all prompts begin with, computed once and shared by all rows."""

    def __init__(self, model: nn.Module, prompts: list[list[int]]) -> None:
        common = os.path.commonprefix(prompts)
        # At least one token of each prompt must be left to ask for its logits.
        self.length = min(len(common), min(map(len, prompts)) - 1)
        if self.length <= 0:
            self.length = 0
            return
        ids = torch.tensor([prompts[0][: self.length]], device=_device(model))
        try:
            past = model(input_ids=ids, logits_to_keep=1, use_cache=True).cache
        except CourseError:  # a template of P-tuning, which cannot be cut in two
            self.length = 0
            return
        self.layers = [(layer.keys, layer.values) for layer in past.layers]
        # What our soft prompts note on a cache, so that they know it again.
        self.notes = {HELD: getattr(past, HELD)} if hasattr(past, HELD) else {}
        # Another model that puts tokens of its own first would put them in front of the rest once more.
        if past.get_seq_length() != self.length and not self.notes:
            self.length = 0

    def expanded(self, batch: int) -> DynamicCache:
        r"""A cache for `batch` rows. The rows share memory: a layer copies when it appends."""
        cache = DynamicCache(
            [
                (keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1))
                for keys, values in self.layers
            ]
        )
        vars(cache).update(self.notes)
        return cache


def _encoder_logits(
    model: nn.Module, prepared: Prepared, rows: dict[str, list], batch_size: int, progress: bool
) -> Float[Tensor, "rows classes"]:
    device = _device(model)
    ids = rows["input_ids"]
    logits: list[Tensor | None] = [None] * len(ids)
    with _evaluating(model), _bar(len(ids), "evaluate", progress) as bar:
        for group in _equal_lengths(ids, batch_size):
            batch = torch.tensor([ids[i] for i in group], device=device)
            for i, row in zip(group, model(input_ids=batch).logits.float().cpu(), strict=True):
                logits[i] = row
            bar.update(len(group))
    return torch.stack([row for row in logits if row is not None])


def _equal_lengths(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    r"""Indices of rows, at most `batch_size` at a time and all of one length, the longest first.

    The longest first: whether the memory suffices shows at once.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_length[len(row)].append(index)
    for length in sorted(by_length, reverse=True):
        group = by_length[length]
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def _windows(ids: list[int], max_length: int, stride: int) -> list[tuple[list[int], int]]:
    r"""Windows over one text, each with the position of the first token in it that is to be scored."""
    if len(ids) < 2:
        return []
    windows, scored = [], 1
    for start in range(0, len(ids), stride):
        window = ids[start : start + max_length]
        windows.append((window, scored - start))
        scored = start + len(window)
        if scored == len(ids):
            break
    return windows


def _first(rows: Dataset, limit: int | None) -> dict[str, list]:
    r"""The first `limit` rows, column by column."""
    if limit is not None and limit < 1:
        raise CourseError(f"limit={limit}: at least one row is needed")
    return rows[:limit]


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _bar(total: int, what: str, progress: bool) -> tqdm:
    return tqdm(total=total, desc=what, disable=not progress, leave=False)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    with in_mode(model, training=False), torch.inference_mode():
        yield

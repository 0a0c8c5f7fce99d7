r"""Answers that a model draws for itself, many at a time, and their logits afterwards with a gradient.

`sample` reads every prompt once and lets its G answers share the keys and values. `shared_logits` reads them again, a
row for each prompt with all of its answers behind it, each of which sees the prompt and itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coursekit.errors import CourseError, whole
from coursekit.evaluation.running import device_of, left_padded, token_ids
from coursekit.modes import in_mode
from coursekit.tasks.prepared import pad_id


@dataclass(frozen=True)
class Answers:
    r"""G answers to each of n prompts, those of one prompt side by side: row i answers prompt i // G.

    Prompts are padded on the left, answers on the right; the masks are 1 where there is a token. The token that ends an
    answer belongs to it: when to stop is learned like all else. logps: $\ln\pi_\text{old}$ of each token, 0 behind the
    end. texts: the answers without special tokens.
    """

    prompt_ids: Int[Tensor, "n prompt"]
    prompt_mask: Int[Tensor, "n prompt"]
    ids: Int[Tensor, "answers seq"]
    mask: Int[Tensor, "answers seq"]
    logps: Float[Tensor, "answers seq"]
    texts: list[str]

    def __post_init__(self) -> None:
        if not self.ids.numel() or not bool(self.mask.any(-1).all()):
            raise CourseError("an answer has no token at all: each needs one, if only the one that ends it")
        if len(self.ids) % len(self.prompt_ids):
            raise CourseError(f"{len(self.ids)} answers are no equal share for each of {len(self.prompt_ids)} prompts")

    @property
    def group(self) -> int:
        r"""G, the number of answers to one prompt."""
        return len(self.ids) // len(self.prompt_ids)

    @property
    def lengths(self) -> Int[Tensor, " answers"]:
        r"""Tokens of each answer, its end included."""
        return self.mask.sum(-1)


def sample(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], group: int = 8, max_new_tokens: int = 16
) -> Answers:
    r"""`group` answers to each prompt, drawn from $\pi$ itself: no temperature, nothing cut off from the vocabulary.

    Prompts come from a chat template, with their special tokens. torch.manual_seed decides what is drawn. A row that
    has ended leaves the batch. Raises CourseError for no prompts and for an empty one.
    """
    group = whole("group", group, least=1, such_as=8)
    max_new_tokens = whole("max_new_tokens", max_new_tokens, least=1, such_as=16)
    rows = token_ids(model, tokenizer, "prompts", prompts, add_special_tokens=False)
    if not rows or not all(rows):
        raise CourseError("there must be at least one prompt, and none may be empty")
    device, pad, end = device_of(model), pad_id(tokenizer), tokenizer.eos_token_id
    prompt_ids, prompt_mask = (t.to(device) for t in left_padded(rows, pad))  # (n, prompt)
    n = len(rows) * group
    ids = torch.full((n, max_new_tokens), pad, device=device)
    mask = torch.zeros_like(ids)
    logps = torch.zeros(n, max_new_tokens, device=device)
    with in_mode(model, training=False), torch.no_grad():
        found = model(
            input_ids=prompt_ids, attention_mask=prompt_mask, position_ids=positions(prompt_mask), use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        cache = found.cache
        cache.batch_repeat_interleave(group)
        logits = found.logits[:, -1].repeat_interleave(group, 0)  # (rows still writing, vocab)
        seen = prompt_mask.repeat_interleave(group, 0)  # (rows still writing, prompt + t)
        writing = torch.arange(n, device=device)
        for t in range(max_new_tokens):
            logp = logits.float().log_softmax(-1)
            token = torch.multinomial(logp.exp(), 1)  # (rows still writing, 1)
            ids[writing, t], mask[writing, t] = token[:, 0], 1
            logps[writing, t] = logp.gather(1, token)[:, 0]
            on = (token[:, 0] != end).nonzero()[:, 0]
            if not len(on) or t + 1 == max_new_tokens:
                break
            if len(on) < len(writing):
                writing, seen, token = writing[on], seen[on], token[on]
                cache.batch_select_indices(on)
            seen = torch.cat([seen, seen.new_ones(len(on), 1)], 1)
            logits = model(
                input_ids=token, attention_mask=seen, position_ids=positions(seen)[:, -1:], cache=cache, use_cache=True
            ).logits[:, -1]
    longest = int(mask.sum(-1).max())
    ids, mask, logps = ids[:, :longest], mask[:, :longest], logps[:, :longest]
    written = [row[: int(k)] for row, k in zip(ids, mask.sum(-1), strict=True)]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return Answers(prompt_ids, prompt_mask, ids, mask, logps, texts)


def positions(mask: Int[Tensor, "rows seq"]) -> Int[Tensor, "rows seq"]:
    r"""Places in the text, padding not counted."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def shared_logits(model: nn.Module, answers: Answers) -> Float[Tensor, "answers seq vocab"]:
    r"""The logits that each answer's tokens were drawn from, under `model` as it is now. A prompt is read once: a row
    is a prompt and its G answers, one behind the other.

    For models that take a mask of (rows, 1, seq, seq), and adapters that put nothing before the text.
    """
    (n, P), G, A = answers.prompt_ids.shape, answers.group, answers.ids.shape[1]
    device = answers.ids.device
    ids = torch.cat([answers.prompt_ids, answers.ids.reshape(n, G * A)], 1)  # (n, prompt + G seq)
    there = torch.cat([answers.prompt_mask, answers.mask.reshape(n, G * A)], 1).bool()
    # 0 for the prompt, g for its answer g: a token sees those before it of the prompt and of its own answer.
    part = torch.cat([torch.zeros(P, dtype=torch.long), torch.arange(1, G + 1).repeat_interleave(A)])
    part = part.to(device)
    sees = ((part == part[:, None]) | (part == 0)).tril()  # (query, key)
    sees = (sees & there[:, None]) | torch.eye(len(part), dtype=torch.bool, device=device)
    dtype = model.get_input_embeddings().weight.dtype
    bias = torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill(~sees, torch.finfo(dtype).min)
    prompt = positions(answers.prompt_mask)
    own = prompt[:, -1:, None] + 1 + torch.arange(A, device=device)  # (n, 1, seq)
    where = torch.cat([prompt, own.expand(n, G, A).reshape(n, G * A)], 1)
    # The prompt's last place speaks of every answer's first token; an answer's last one of nothing that is asked.
    asked = P + (torch.arange(G)[:, None] * A + torch.arange(A - 1)).flatten()
    keep = torch.cat([torch.tensor([P - 1]), asked]).to(device)
    found = model(
        input_ids=ids, attention_mask=bias[:, None], position_ids=where, use_cache=False, logits_to_keep=keep
    ).logits  # (n, 1 + G (seq - 1), vocab)
    first = found[:, :1, None].expand(-1, G, -1, -1)
    rest = found[:, 1:].reshape(n, G, A - 1, found.shape[-1])
    return torch.cat([first, rest], 2).flatten(0, 1)  # (n, G, seq, vocab) -> (answers, seq, vocab)

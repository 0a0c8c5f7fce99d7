r"""The exercises of notebook 04_soft_prompts that train: the loop of a soft prompt, and a prompt of few vectors."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.checks.soft_prompts import prepend
from coursekit.checks.training import Training, TrainingCase, TrainingScore

Batch = tuple[Tensor, Tensor, Tensor]

# soft-prompts-train -----------------------------------------------------------------------------------------------


def load_tiny() -> Any:
    r"""A small language model, the same for everybody; nothing in it is frozen yet."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, vocab_size=40)
    heads = dict(num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model.eval()


def sgd(parameters: Any) -> Any:
    r"""Plain gradient descent: an optimizer of these parameters."""
    return torch.optim.SGD(parameters, lr=0.5)


def _secret(draw: Draw) -> tuple[Any, ...]:
    r"""Of each row's tokens only the last has a label. One row is padded behind its text, one before it, where a
    model without the mask reads it.
    """
    batches = []
    for length in [draw.whole(4, 7) for _ in range(3)]:
        ids, mask = draw.integers(1, 39, 3, length), torch.ones(3, length, dtype=torch.long)
        mask[1, length - 1 :] = mask[2, 0] = 0
        labels = torch.full_like(ids, -100)
        for row, last in enumerate((length - 1, length - 2, length - 1)):
            labels[row, last] = ids[row, last]
        batches.append((ids, mask, labels))
    return load_tiny, 0.3 * draw.normal(3, 16, dtype=torch.float32), batches, sgd


def train(
    load: Any, start: Tensor, batches: list[Batch], optimizer: Any, place: Any = prepend, zero: bool = True,
    weights: bool = False, at_once: bool = False, masked: bool = True,
) -> Tensor:  # fmt: skip
    r"""One step for each batch, on the prompt alone: (n, d) -> (n, d). What can be set is wrong."""
    model = load().requires_grad_(weights)
    P = start.clone().requires_grad_()
    optim = optimizer([P, *(model.parameters() if weights else ())])
    for ids, mask, labels in batches:
        x, longer, targets = place(P, model.get_input_embeddings()(ids), mask, labels)
        loss = model(inputs_embeds=x, attention_mask=longer if masked else None, labels=targets).loss
        if zero and not at_once:
            optim.zero_grad()
        loss.backward()
        if not at_once:
            optim.step()
    if at_once:
        optim.step()
    return P.detach()


def _labelled(P: Tensor, x: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, longer, _ = prepend(P, x, mask, labels)
    return x, longer, torch.cat([labels.new_zeros(len(labels), len(P)), labels], dim=1)


def _shifted(P: Tensor, x: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, longer, targets = prepend(P, x, mask, labels)
    return x, longer, torch.cat([targets[:, 1:], targets.new_full((len(targets), 1), -100)], dim=1)


TRAIN = Exercise(
    id="soft-prompts-train",
    points=4,
    difficulty=3,
    minutes=15,
    secret=_secret,
    reference=train,
    mutants={
        "the prompt is still the one that came in. It must require a gradient, be what the optimizer has, and "
        "stand before the text, with 1 in the mask": (lambda load, start, batches, optimizer: start),
        "gradients add up from batch to batch: call zero_grad() before each backward()": (
            lambda load, start, batches, optimizer: train(load, start, batches, optimizer, zero=False)
        ),
        "the model's weights train along: the optimizer must have the prompt alone": (
            lambda load, start, batches, optimizer: train(load, start, batches, optimizer, weights=True)
        ),
        "the virtual tokens have labels of 0, so the loss asks for token 0 there: give them -100": (
            lambda load, start, batches, optimizer: train(load, start, batches, optimizer, place=_labelled)
        ),
        "the mask is not used, so the model reads a row's padding: give it attention_mask, with 1 for the prompt": (
            lambda load, start, batches, optimizer: train(load, start, batches, optimizer, masked=False)
        ),
        "the labels are shifted by one: the model shifts them itself, so give each at its own token": (
            lambda load, start, batches, optimizer: train(load, start, batches, optimizer, place=_shifted)
        ),
        "only the first batch is used: one step for each of them": (
            lambda load, start, batches, optimizer: train(load, start, batches[:1], optimizer)
        ),
        "there is one step for all batches together: step after each of them": (
            lambda load, start, batches, optimizer: train(load, start, batches, optimizer, at_once=True)
        ),
    },
    tolerance=1e-4,
)

# soft-prompts-design ----------------------------------------------------------------------------------------------

#: Virtual tokens at most, countries to learn from, and the share of the others that has to be right for all points.
MOST, LEARN, ASKED = 4, 72, 0.4
#: Questions that fit into so many vectors. What their words get, untrained, is where the points begin.
IN_WORDS = (" The capital of", " The capital city of")


def load_smollm2() -> Any:
    r"""SmolLM2, frozen, on the CPU."""
    from coursekit.models import load_decoder

    return load_decoder("smollm2", device="cpu")[0].requires_grad_(False)


@functools.cache
def _smollm2() -> Any:
    return load_smollm2()


def _pose(draw: Draw) -> TrainingCase:
    r"""Countries and capitals in token ids, " Japan is Tokyo": most to learn from, the rest to judge by."""
    from coursekit.models import load_decoder
    from coursekit.tasks.cloze import load_capitals, prepare_cloze

    tokenizer = load_decoder("smollm2", device="cpu")[1]
    prepared = prepare_cloze(load_capitals(), " {} is", tokenizer)
    rows = [row for split in prepared.data.values() for row in split.to_list()]
    order = draw.order(len(rows))
    learn, judge = (prepared.collate([rows[i] for i in part]) for part in (order[:LEARN], order[LEARN:]))
    names = ("input_ids", "attention_mask", "labels")
    return TrainingCase((load_smollm2, *(learn[name] for name in names)), tuple(judge[name] for name in names))


def _score(posing: TrainingCase, tensors: dict[str, Tensor]) -> TrainingScore | str:
    r"""The share of countries that were not learned from whose capital the model writes behind the prompt."""
    d = _smollm2().config.hidden_size
    if set(tensors) != {"prompt"}:
        return 'it must return {"prompt": P} and nothing else'
    P = tensors["prompt"]
    if P.dim() != 2 or P.shape[1] != d:
        return f"P must be a floating-point tensor of shape (n, {d})"
    if not 1 <= len(P) <= MOST:
        return f"P has {len(P)} vectors: 1 to {MOST} are asked"
    right = _right(P.float(), *posing.kept)
    floor = _floor(*posing.kept)
    goal = max(ASKED, floor + 0.03)  # where the words alone happen to get so many: three countries more
    if right >= goal:
        return TrainingScore(1.0, "", round(right, 3))
    share = max(0.0, right - floor) / (goal - floor)
    said = f"{right:.0%} of new countries get their capital; {ASKED:.0%} are asked"
    own = _right(P.float(), *posing.arguments[1:])
    longest = _smollm2().get_input_embeddings().weight.norm(dim=1).max().item()
    if math.isfinite(own) and own >= ASKED and own > right + 0.2:
        said += f". It is {own:.0%} on those that it learned from: train less, or with fewer vectors"
    elif P.norm(dim=1).max().item() > 20 * longest:
        said += ". A vector is over 20 times as long as any word's: try a smaller learning rate, or start from words"
    elif own < ASKED:
        said += f", and it is {own:.0%} on those that it learned from: train longer, or at a higher learning rate"
    if right:
        said += f". The words of a question, untrained, get {floor:.0%} here: points begin above that"
        said += f", and {goal:.0%} get all of them" if goal > ASKED else ""
    return TrainingScore(share, said, round(right, 3))


@functools.lru_cache(maxsize=1)  # a batch judges every answer by the same questions
def _floor(*kept: Tensor) -> float:
    r"""What the words of a question get, untrained."""
    return max(_right(_vectors(words), *kept) for words in IN_WORDS)


@functools.cache
def _vectors(words: str) -> Tensor:
    r"""The vectors of these words, (n, 576)."""
    from coursekit.models import load_decoder

    ids = load_decoder("smollm2", device="cpu")[1](words)["input_ids"]
    return _smollm2().get_input_embeddings().weight[ids].detach()


def _rows(rows: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> Batch:
    r"""These rows, without the columns that are padding in all of them."""
    longest = int(mask[rows].sum(1).max())
    return ids[rows, :longest], mask[rows, :longest], labels[rows, :longest]


@torch.no_grad()
def _right(P: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> float:
    model, right = _smollm2(), []
    for rows in mask.sum(1).argsort().split(18):  # of about one length: padding costs as much as text
        ids_of, *others = _rows(rows, ids, mask, labels)
        x, longer, wanted = prepend(P, model.get_input_embeddings()(ids_of), *others)
        h = model.get_decoder()(inputs_embeds=x, attention_mask=longer, use_cache=False).last_hidden_state[:, :-1]
        wanted = wanted[:, 1:]
        asked = wanted != -100
        wrong = torch.zeros_like(asked)
        wrong[asked] = model.get_output_embeddings()(h[asked]).argmax(-1) != wanted[asked]
        right.append(~wrong.any(1))
    return torch.cat(right).float().mean().item()


def _trained(
    load: Any, ids: Tensor, mask: Tensor, labels: Tensor, rate: float, steps: int, start: range | list[int]
) -> dict[str, Tensor]:
    r"""A prompt that starts as these tokens, after a training at one rate: for mistakes, and for what is fair."""
    model = load()
    P = model.get_input_embeddings().weight[list(start)].clone()
    rows = [torch.arange(8 * step, 8 * step + 8) % len(ids) for step in range(steps)]
    batches = [(ids[r], mask[r], labels[r]) for r in rows]
    return {"prompt": train(lambda: model, P, batches, lambda p: torch.optim.Adam(p, lr=rate))}


DESIGN = Training(
    id="soft-prompts-design",
    points=5,
    difficulty=4,
    minutes=20,
    seconds=240,
    reached="{:.0%} of new countries get their capital",
    pose=_pose,
    score=_score,
    # Without a warm-up the first steps throw the prompt far away, in some orders of the rows for good.
    fair=functools.partial(_trained, rate=0.03, steps=27, start=[378, 3575, 2240, 282]),  # IN_WORDS[1]
    mutants={
        "P has 5 vectors: 1 to 4 are asked": (lambda load, ids, mask, labels: {"prompt": torch.zeros(5, 576)}),
        "P must be a floating-point tensor of shape (n, 576)": (
            lambda load, ids, mask, labels: {"prompt": torch.zeros(576)}
        ),
        "0% of new countries get their capital; 40% are asked, and it is 0% on those that it learned from: "
        "train longer, or at a higher learning rate": (
            lambda *given: _trained(*given, rate=1e-5, steps=1, start=range(1000, 1004))
        ),
    },
)

r"""The open exercise of notebook 03_ia3: what is wrong with a training of (IA)³, told from what was written down of it.

The runs are real and short: the topmost block of MiniLM with its three vectors and a classifier, on film sentences,
with one fault each. Everything below that block is frozen, so its inputs are computed once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw

#: Steps of a run, and how many of the factors of l_v are written down.
STEPS, SHOWN = 12, 32
#: Sentences, tokens of each, and sentences in a batch.
SENTENCES, LENGTH, BATCH = 64, 10, 8
#: The faults with a name; what has none of these is OTHER.
FAULTS = ("learning rate", "zeros", "not frozen", "left out")
OTHER = "something else"
#: Faults without a name: that of the notebook's check, and those that only grading has.
SHOWN_UNLISTED, UNLISTED = "added", ("half", "again", "bias", "twice")
#: What the farthest factor of a right run moves in a step: on average more than this.
LEAST_MOVE = 0.006
#: A later move of a right run / its largest first one: at most this. Adam's own bound after twelve steps is 1.061.
MOST_GROWTH = 1.1

Run = dict[str, Tensor]
Runs = tuple[Run, ...]


@functools.cache
def below() -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    r"""Weights of MiniLM's topmost block and pooler, its inputs (n, LENGTH, d), their mask, and the labels."""
    from coursekit.models import load_encoder
    from coursekit.tasks import load_task

    model, tokenizer = load_encoder("minilm", num_labels=2, device="cpu")
    rows = load_task("film", "two").short(LENGTH - 2).data["train"][:SENTENCES]
    sentences = tokenizer(rows["text"], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**sentences, output_hidden_states=True).hidden_states[-2]
    block = {f"block.{n}": p for n, p in model.bert.encoder.layer[-1].named_parameters()}
    others = {n: p for n, p in model.named_parameters() if n.startswith(("bert.pooler", "classifier"))}
    weights = {n: p.detach().clone() for n, p in (block | others).items()}
    return weights, hidden, sentences["attention_mask"], torch.tensor(rows["label"])


def _multiplied(l: Tensor, y: Tensor, b: Tensor) -> Tensor:
    return l * y


#: How a factor meets what a layer gives, y = W x + b, where that is not l * y. The feed-forward's has no b before it.
ACTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "twice": lambda l, y, b: l * l * y,
    "added": lambda l, y, b: l + y,
    "bias": lambda l, y, b: l * (y - b) + b,
}


def top(
    P: Mapping[str, Tensor],
    l: Mapping[str, Tensor],
    x: Tensor,
    mask: Tensor,
    act: Callable[[Tensor, Tensor, Tensor], Tensor] = _multiplied,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Logits (batch, 2) from the inputs of the topmost block; the values before l_v and after it, (batch, seq, d).

    Only [CLS] is read above the block, so only its query and its feed-forward are computed.
    """

    def linear(name: str, y: Tensor) -> Tensor:
        return F.linear(y, P[f"{name}.weight"], P[f"{name}.bias"])

    def norm(name: str, y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-1:], P[f"{name}.weight"], P[f"{name}.bias"], 1e-12)

    def by_head(y: Tensor) -> Tensor:
        return y.unflatten(-1, (12, -1)).transpose(1, 2)  # (batch, seq, d) -> (batch, heads, seq, d / heads)

    inside = "block.attention.self"
    y = linear(f"{inside}.value", x)
    h = act(l["v"], y, P[f"{inside}.value.bias"])
    mixed = F.scaled_dot_product_attention(
        by_head(linear(f"{inside}.query", x[:, :1])),
        by_head(act(l["k"], linear(f"{inside}.key", x), P[f"{inside}.key.bias"])),
        by_head(h),
        attn_mask=mask[:, None, None].bool(),
    )
    cls = mixed.transpose(1, 2).flatten(2)[:, 0]  # (batch, heads, 1, d / heads) -> (batch, d)
    cls = norm("block.attention.output.LayerNorm", x[:, 0] + linear("block.attention.output.dense", cls))
    up = F.gelu(linear("block.intermediate.dense", cls))
    up = act(l["ff"], up, torch.zeros(()))
    cls = norm("block.output.LayerNorm", cls + linear("block.output.dense", up))
    return linear("classifier", torch.tanh(linear("bert.pooler.dense", cls))), y, h


@functools.lru_cache(maxsize=512)
def run(fault: str, seed: int, rate: float) -> Run:
    r"""One training, and what is written down of it. fault: one of FAULTS or of those without a name, or "healthy".

    "loss" (STEPS,) · "l" (STEPS + 1, SHOWN), factors of l_v at the start and after each step · "W" (2, 14, 14), a
    corner of W_v before and after · "y" and "h" (10, SHOWN), for the tokens of one sentence after training W_v x + b_v,
    and the values that the attention got.
    """
    weights, hidden, mask, labels = below()
    P = {name: tensor.clone() for name, tensor in weights.items()}
    start = torch.zeros if fault == "zeros" else torch.ones
    l = {n: start(width).requires_grad_() for n, width in (("k", 384), ("v", 384), ("ff", 1536))}
    head = [P[f"classifier.{n}"].requires_grad_() for n in ("weight", "bias")]
    if fault == "not frozen":
        head = [p.requires_grad_() for p in P.values()]
    trained = [*head, *(() if fault == "left out" else l.values())]
    optimizer = torch.optim.Adam(trained, lr=rate / 10 if fault == "learning rate" else rate)
    act = ACTS.get(fault, _multiplied)
    kept: dict[str, list[Tensor]] = {"loss": [], "l": [_shown(l["v"])]}
    before = P["block.attention.self.value.weight"].detach()[:14, :14].clone()
    order = torch.randperm(SENTENCES, generator=torch.Generator().manual_seed(seed))
    for step in range(STEPS):
        rows = order[(torch.arange(BATCH) + step * BATCH) % SENTENCES]
        if fault == "again" and step == STEPS // 2:  # as when the cell that makes them runs a second time
            for vector in l.values():
                vector.data.fill_(1.0)
        logits, *_ = top(P, l, hidden[rows], mask[rows], act)
        loss = F.cross_entropy(logits, labels[rows])
        for p in (*l.values(), *trained):
            p.grad = None
        loss.backward()
        if fault == "half":  # every second factor never learns
            for vector in l.values():
                vector.grad[::2] = 0  # type: ignore[index]
        optimizer.step()
        kept["loss"].append(loss.detach())
        kept["l"].append(_shown(l["v"]))
    with torch.no_grad():
        _, y, h = top(P, l, hidden[order[:1]], mask[order[:1]], act)
        after = P["block.attention.self.value.weight"][:14, :14].clone()
    return {
        **{name: torch.stack(tensors) for name, tensors in kept.items()},
        "W": torch.stack([before, after]), "y": y[0, :, :SHOWN].clone(), "h": h[0, :, :SHOWN].clone(),
    }  # fmt: skip


def _shown(vector: Tensor) -> Tensor:
    return vector.detach()[:SHOWN].clone()


def diagnose(runs: Runs) -> tuple[str, ...]:
    r"""The fault of each run, or "healthy"."""
    return tuple(map(fault_of, runs))


def _strange(run: Run) -> bool:
    r"""Whether a sentence about right runs is false of this one, whatever the reason."""
    moves = run["l"].diff(dim=0).abs()
    jumps = bool(moves.max() > MOST_GROWTH * moves[0].max())
    scaled = torch.allclose(run["h"], run["l"][-1] * run["y"], rtol=1e-3, atol=1e-4)
    return not scaled or not moves.any(0).all() or jumps


#: The order matters: factors that never move also move less than at any learning rate; what has a name is not something
#: else.
SIGNS: dict[str, Callable[[Run], bool]] = {
    "left out": lambda run: torch.equal(run["l"][0], run["l"][-1]),
    "zeros": lambda run: not run["l"][0].any(),
    "not frozen": lambda run: not torch.equal(*run["W"]),
    "learning rate": lambda run: run["l"].diff(dim=0).abs().amax(1).mean().item() < LEAST_MOVE,
    OTHER: _strange,
}


def fault_of(run: Run, signs: Mapping[str, Callable[[Run], bool]] = SIGNS) -> str:
    r"""The first of `signs` that `run` shows."""
    return next((fault for fault, shows in signs.items() if shows(run)), "healthy")


def _blind_to(fault: str) -> Callable[[Runs], Any]:
    others = {name: shows for name, shows in SIGNS.items() if name != fault}
    return lambda runs: tuple(fault_of(run, others) for run in runs)


def shuffled(draw: Draw) -> tuple[Runs]:
    r"""A right run, one with each fault, and one whose fault has no name, in any order. Of kind 1 that is one which the
    notebook's check does not have.
    """
    unlisted = draw.pick(UNLISTED) if draw.kind else SHOWN_UNLISTED
    kinds = ["healthy", *FAULTS, unlisted]
    runs = [run(kind, draw.whole(0, 10**6), draw.pick((0.02, 0.03, 0.04))) for kind in kinds]
    return (tuple(copied(runs[i]) for i in draw.order(len(runs))),)


def copied(run: Run) -> Run:
    r"""So that nobody changes the one that is kept."""
    return {name: tensor.clone() for name, tensor in run.items()}


def public_runs(seed: int) -> tuple[Runs]:
    r"""The runs of the notebook's check."""
    return shuffled(Draw(b"the notebook's", f"runs {seed}"))


DIAGNOSE = Exercise(
    id="ia3-diagnose", points=5, difficulty=4, minutes=25,
    inputs=public_runs, secret=shuffled, reference=diagnose,
    mutants={
        "this judges by the loss alone, and that falls in broken runs too: the classifier learns by itself":
            lambda runs: tuple("healthy" if r["loss"][-3:].mean() < r["loss"][:3].mean() else FAULTS[0] for r in runs),
        "factors that never move are no matter of the learning rate: the optimizer has not got them, 'left out'":
            _blind_to("left out"),
        "a run whose factors start at 0 is not found: l[0] says where they start, and it must be 1": _blind_to("zeros"),
        "a run whose base is not frozen is not found: compare W before and after": _blind_to("not frozen"),
        "a run with LoRA's learning rate is not found: its factors move a tenth as far in a step":
            _blind_to("learning rate"),
        "what has no name on the list is 'something else', not 'healthy': go through what a right run does, one "
        "sentence after the other": _blind_to(OTHER),
        "every run is called healthy: five of them have a fault": lambda runs: tuple("healthy" for _ in runs),
    },
    kinds=2,
)  # fmt: skip

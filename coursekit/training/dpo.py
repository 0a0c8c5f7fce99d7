r"""Direct preference optimisation: learning from pairs of a better and a worse answer, without a reward model.

Rafailov et al. 2023, arXiv:2305.18290. With $\pi$ the model in training, $\pi_0$ the reference it started from,
$y_w$ the chosen and $y_l$ the rejected answer to the prompt $x$:

$$\hat r(x, y) = \beta \ln \frac{\pi(y \mid x)}{\pi_0(y \mid x)} \qquad
\mathcal L = -\ln \sigma\bigl(\hat r(x, y_w) - \hat r(x, y_l)\bigr)$$

(equation 7, and the implicit reward of section 4). The reference is the same network with its adapter off: no second
model in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coursekit.errors import CourseError, keep, number
from coursekit.evaluation.compatible import check_data
from coursekit.evaluation.running import device_of, first_rows, progress_bar
from coursekit.evaluation.scores import Score
from coursekit.labels import IGNORED
from coursekit.methods import FullFineTuning, attached, disabled
from coursekit.modes import in_mode
from coursekit.tasks.preferences import PreparedPairs


def logps_of(
    logits: Float[Tensor, "rows seq vocab"], ids: Int[Tensor, "rows seq"]
) -> Float[Tensor, "rows seq"]:
    r"""$\ln\pi$ of each token, where `logits` are those that it was drawn from."""
    return logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]


def token_logps(
    logits: Float[Tensor, "batch seq vocab"], labels: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq-1"]:
    r"""$\ln \pi(y_t \mid x, y_{<t})$ of each labelled token, 0 where the label is −100.

    The logits at position t − 1 speak of token t: the result has one column less.
    """
    targets = labels[:, 1:]
    left_out = targets == IGNORED
    return logps_of(logits[:, :-1], targets.masked_fill(left_out, 0)).masked_fill(left_out, 0.0)


def sequence_logps(
    logits: Float[Tensor, "batch seq vocab"], labels: Int[Tensor, "batch seq"]
) -> Float[Tensor, " batch"]:
    r"""$\ln \pi(y \mid x)$ of each row: the sum over its labelled tokens. Not their mean: long answers are rarer."""
    return token_logps(logits, labels).sum(-1)


@dataclass(frozen=True)
class Preference:
    r"""What DPO says of a batch of pairs. `losses`, `chosen` and `rejected` (the implicit rewards) are (pairs,)."""

    losses: Float[Tensor, " pairs"]
    chosen: Float[Tensor, " pairs"]
    rejected: Float[Tensor, " pairs"]

    @property
    def loss(self) -> Float[Tensor, ""]:
        r"""The mean over the pairs."""
        return self.losses.mean()

    @property
    def margins(self) -> Float[Tensor, " pairs"]:
        r"""$\hat r(x, y_w) - \hat r(x, y_l)$: positive where the model now prefers what people prefer, more than the
        reference did.
        """
        return self.chosen - self.rejected


def dpo(
    chosen: Float[Tensor, " pairs"],
    rejected: Float[Tensor, " pairs"],
    reference_chosen: Float[Tensor, " pairs"],
    reference_rejected: Float[Tensor, " pairs"],
    beta: float = 0.1,
    smoothing: float = 0.0,
) -> Preference:
    r"""DPO from log-probabilities of whole answers, (pairs,), under the model and under the reference.

    beta: how strongly the reference holds on. smoothing: the share of pairs that are taken to be labelled the wrong
    way round (conservative DPO, Mitchell 2023): $-(1-\epsilon) \ln \sigma(\Delta) - \epsilon \ln \sigma(-\Delta)$.
    """
    won, lost = beta * (chosen - reference_chosen), beta * (rejected - reference_rejected)
    margin = won - lost
    losses = -(1 - smoothing) * F.logsigmoid(margin)
    if smoothing:
        losses = losses - smoothing * F.logsigmoid(-margin)
    return Preference(losses, won.detach(), lost.detach())


def kl_to_reference(
    logits: Float[Tensor, "batch seq vocab"],
    reference: Float[Tensor, "batch seq vocab"],
    labels: Int[Tensor, "batch seq"],
) -> Float[Tensor, ""]:
    r"""$\mathrm{KL}(\pi \,\|\, \pi_0)$ of the next token, in nats, mean over the labelled positions.

    Exact at each position, a sum over the vocabulary, along answers that are given: what the model has moved away
    from the reference on this text.
    """
    at = labels[:, 1:] != IGNORED
    # The labelled positions first: of a large vocabulary the others would take gigabytes.
    own, other = (F.log_softmax(x[:, :-1][at].float(), -1) for x in (logits, reference))
    return (own.exp() * (own - other)).sum(-1).mean()


@dataclass(frozen=True)
class DPO:
    r"""The objective for `fit`: `fit(model, pairs, objective=DPO(beta=0.1))`, with pairs from `prepare_pairs`.

    Notes each step's mean reward margin, and the share of pairs with a positive one.
    Raises CourseError for settings that make no sense.
    """

    beta: float = 0.1
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        keep(self, beta=number("beta", self.beta, above=0, such_as=0.1))
        smoothing = number("smoothing (the share of wrong labels)", self.smoothing, least=0, below=0.5)
        keep(self, smoothing=smoothing)

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        found = self.preference(model, batch)
        margins = found.margins
        return found.loss, {"margin": margins.mean(), "preferred": (margins > 0).float().mean()}

    def preference(self, model: nn.Module, batch: dict[str, Tensor]) -> Preference:
        r"""The pairs of a batch: its first half of rows the chosen, its second half the rejected answers."""
        if "pair" not in batch:
            raise CourseError(
                "DPO learns from pairs, and these rows are none: give what prepare_pairs(...) makes"
            )
        logps = answer_logps(model, batch)
        with torch.no_grad(), reference_of(model) as network:
            reference = answer_logps(network, batch)
        (chosen, rejected), (old_chosen, old_rejected) = logps.chunk(2), reference.chunk(2)
        return dpo(chosen, rejected, old_chosen, old_rejected, self.beta, self.smoothing)


def answer_logps(model: nn.Module, batch: dict[str, Tensor]) -> Float[Tensor, " rows"]:
    r"""$\ln \pi(y \mid x)$ of each row of a batch."""
    return sequence_logps(*answer_logits(model, batch))


def answer_logits(
    model: nn.Module, batch: dict[str, Tensor]
) -> tuple[Float[Tensor, "batch kept vocab"], Int[Tensor, "batch kept"]]:
    r"""Logits and labels from the last position before the first label on: of the prompt nothing is asked, and over a
    large vocabulary its logits would cost as much as a third of the network.
    """
    labels = batch["labels"]
    first = int((labels != IGNORED).any(0).int().argmax())
    kept = labels.shape[1] - max(first - 1, 0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return model(**inputs, use_cache=False, logits_to_keep=kept).logits, labels[:, -kept:]


@contextmanager
def reference_of(model: nn.Module) -> Iterator[nn.Module]:
    r"""The reference: the same network with its adapter off, in eval mode, and then as it was.

    Raises CourseError where there is no adapter to turn off, so that the reference would be the model itself.
    """
    network = getattr(model, "module", model)  # of several processes, each has a wrapper around it
    methods = attached(network)
    if not methods or any(isinstance(method, FullFineTuning) for method in methods.values()):
        raise CourseError(
            "the reference is the model with its adapter off, and this one has none: attach one, such as LoRA(r=8)"
        )
    with disabled(network), in_mode(network, training=False):
        yield network


@dataclass(frozen=True)
class PreferenceScore:
    r"""A model against its reference on held-out pairs.

    prefers: share of pairs with a positive reward margin. margin: mean reward margin. kl: $\mathrm{KL}(\pi\|\pi_0)$ per
    token, on chosen and rejected answers alike. likelier: share of pairs whose chosen answer has the larger
    $\ln \pi(y \mid x)$, the reference aside. likelier_before: the same for the reference, $\ln \pi_0(y \mid x)$.
    """

    prefers: Score
    likelier: Score
    likelier_before: Score
    margin: float
    kl: float

    def __repr__(self) -> str:
        return f"prefers {self.prefers}, margin {self.margin:+.2f}, KL {self.kl:.3f} nats a token"


def preference_score(
    model: nn.Module,
    pairs: PreparedPairs,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 16,
    *,
    beta: float = 0.1,
    progress: bool = True,
) -> PreferenceScore:
    r"""`model` with its adapter against the same with it off, on the first `limit` pairs of `split`."""
    check_data(model, pairs, split)
    rows = len(first_rows(pairs.split(split), limit)["labels"])
    margins, likelier, before, kl, tokens = [], [], [], 0.0, 0
    with in_mode(model, training=False), progress_bar(rows, "pairs", progress) as bar:
        for batch in pairs.batches(split, batch_size, limit, device_of(model)):
            with torch.inference_mode():
                logits, labels = answer_logits(model, batch)
                with reference_of(model):
                    reference = answer_logits(model, batch)[0]
                own, other = (sequence_logps(x, labels).chunk(2) for x in (logits, reference))
                n = int((labels[:, 1:] != IGNORED).sum())
                kl += float(kl_to_reference(logits, reference, labels)) * n
            tokens += n
            margins.append(dpo(own[0], own[1], other[0], other[1], beta).margins)
            likelier.append(own[0] > own[1])
            before.append(other[0] > other[1])
            bar.update(len(batch["pair"]) // 2)
    found = torch.cat(margins)
    return PreferenceScore(
        Score.of(found > 0),
        Score.of(torch.cat(likelier)),
        Score.of(torch.cat(before)),
        found.mean().item(),
        kl / tokens,
    )

r"""What direct preference optimisation asks of a model: the log-probabilities of tokens, and the reference.

Rafailov et al. 2023, arXiv:2305.18290. With $\pi$ the model in training, $\pi_0$ the reference it started from,
$y_w$ the chosen and $y_l$ the rejected answer to the prompt $x$:

$$\hat r(x, y) = \beta \ln \frac{\pi(y \mid x)}{\pi_0(y \mid x)} \qquad
\mathcal L = -\ln \sigma\bigl(\hat r(x, y_w) - \hat r(x, y_l)\bigr)$$

(equation 7, and the implicit reward of section 4). Lesson 00 builds the loss and its loop. The reference is the same
network with its adapter off: no second model in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float, Int
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.labels import IGNORED
from coursekit.methods import FullFineTuning, attached, disabled
from coursekit.modes import in_mode


def logps_of(logits: Float[Tensor, "rows seq vocab"], ids: Int[Tensor, "rows seq"]) -> Float[Tensor, "rows seq"]:
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


def from_first_label(
    model: nn.Module, ids: Int[Tensor, "batch seq"], labels: Int[Tensor, "batch seq"]
) -> tuple[Float[Tensor, "batch kept vocab"], Int[Tensor, "batch kept"]]:
    r"""Logits and labels from the position before the first label on, so that `token_logps` of them lacks only zeros.

    What stands before is read, and gets no logits: that saves time.
    """
    kept = ids.shape[1] + 1 - int((labels != IGNORED).any(0).int().argmax())
    return model(ids, logits_to_keep=kept).logits, labels[:, -kept:]


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

r"""Group relative policy optimisation: learning from a reward that a rule gives, without a second network.

Shao et al. 2024, *DeepSeekMath*, arXiv:2402.03300. To a prompt the model draws G answers $o_1 \dots o_G$, and a rule
gives each its reward $r_i$. Who is better than the group is pushed up, the others down:

$$\hat A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r)} \qquad
\rho_{i,t} = \frac{\pi(o_{i,t} \mid o_{i,<t})}{\pi_\text{old}(o_{i,t} \mid o_{i,<t})}$$

$$\mathcal L = -\frac1G \sum_i \frac1{|o_i|} \sum_t \Bigl(
\min\bigl(\rho_{i,t} \hat A_i,\ \mathrm{clip}(\rho_{i,t}, 1-\epsilon, 1+\epsilon) \hat A_i\bigr)
- \beta\, \mathrm{KL}_{i,t}\Bigr) \qquad
\mathrm{KL}_{i,t} = \frac{\pi_0}{\pi} - \ln \frac{\pi_0}{\pi} - 1$$

(equations 3 and 4). The reference $\pi_0$ is the same network with its adapter off: no second model in memory. Dr. GRPO
(Liu et al. 2025, arXiv:2503.20783) leaves out two of the divisions, by std(r) and by $|o_i|$: the first weighs prompts
that are nearly always or nearly never solved more, the second makes long wrong answers cheap.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coursekit.errors import CourseError, number, whole
from coursekit.training.dpo import logps_of as logps_of
from coursekit.training.rollouts import Answers

#: Beside the standard deviation, as in trl: a group of nearly equal rewards is not blown up.
SMALL = 1e-4

#: (prompt, answer) -> reward, a number.
Reward = Callable[[str, str], Any]


def group_advantages(rewards: Float[Tensor, "prompts group"], by_std: bool = True) -> Float[Tensor, "prompts group"]:
    r"""$\hat A_i$: how much better each answer is than its group, in standard deviations (of n - 1) by default.

    Exactly 0 where all rewards of a group are equal: it teaches nothing. by_std=False is Dr. GRPO's.
    Raises CourseError for a group of one, which has nobody to be compared with, and for rewards that are not finite.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise CourseError(
            f"rewards must be (prompts, group) with at least 2 answers to each prompt; got {tuple(rewards.shape)}."
        )
    if not rewards.isfinite().all():
        raise CourseError("a reward is no finite number: the rule must give one for every answer")
    centred = rewards - rewards.mean(1, keepdim=True)  # (prompts, group)
    equal = rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True)
    centred = centred.masked_fill(equal, 0.0)  # a mean of equals can be off by a bit
    return centred / (rewards.std(1, keepdim=True) + SMALL) if by_std else centred


def ratios(logps: Float[Tensor, "answers seq"], old: Float[Tensor, "answers seq"]) -> Float[Tensor, "answers seq"]:
    r"""$\rho = \pi / \pi_\text{old}$ of each token."""
    return (logps - old).exp()


def clipped_loss(
    logps: Float[Tensor, "answers seq"],
    old: Float[Tensor, "answers seq"],
    advantages: Float[Tensor, " answers"],
    epsilon: float = 0.2,
) -> Float[Tensor, "answers seq"]:
    r"""$-\min(\rho\hat A,\ \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon)\hat A)$ of each token.

    Where $\rho$ has already gone further than $\epsilon$ in the direction that $\hat A$ asks for, there is no gradient.
    """
    rho, A = ratios(logps, old), advantages[:, None]  # (answers, seq), (answers, 1)
    return -torch.minimum(rho * A, rho.clamp(1 - epsilon, 1 + epsilon) * A)  # (answers, seq)


def kl_estimate(
    logps: Float[Tensor, "answers seq"], reference: Float[Tensor, "answers seq"]
) -> Float[Tensor, "answers seq"]:
    r"""$\pi_0/\pi - \ln(\pi_0/\pi) - 1$ of each token (equation 4): never negative, and its mean over what $\pi$
    draws is $\mathrm{KL}(\pi \,\|\, \pi_0)$. The gradient of that mean is another thing: `weighted_kl`.
    """
    difference = reference - logps  # (answers, seq)
    return difference.exp() - difference - 1


def answer_mean(values: Float[Tensor, "answers seq"], mask: Int[Tensor, "answers seq"]) -> Float[Tensor, ""]:
    r"""$\frac1G \sum_i \frac1{|o_i|} \sum_t$: each answer's own mean, then the mean of those, so that all answers weigh
    the same.
    """
    return ((values * mask).sum(1) / mask.sum(1)).mean()


def fixed_mean(
    values: Float[Tensor, "answers seq"], mask: Int[Tensor, "answers seq"], length: int
) -> Float[Tensor, ""]:
    r"""Dr. GRPO's: the sum over all tokens by one constant, so that all tokens weigh the same."""
    return (values * mask).sum() / (len(values) * length)


def entropy(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch"]:
    r"""$-\sum_v \pi_v \ln \pi_v$ of the next token, in nats."""
    logp = logits.float().log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def grpo_loss(
    logps: Float[Tensor, "answers seq"],
    old: Float[Tensor, "answers seq"],
    reference: Float[Tensor, "answers seq"] | None,
    advantages: Float[Tensor, " answers"],
    mask: Int[Tensor, "answers seq"],
    *,
    epsilon: float = 0.2,
    beta: float = 0.04,
    weighted_kl: bool = False,
    length: int | None = None,
) -> Float[Tensor, ""]:
    r"""Equation 3, with a minus: the smaller, the better. Dr. GRPO is beta=0 with a length, on advantages by_std=False.

    reference: $\ln\pi_0$ of each token, from `dpo.reference_of(model)`; None where beta is 0. epsilon: of the clipping.
    beta: how strongly the reference holds on. weighted_kl: multiply the KL by $\rho$, whose gradient is then that of
    $\mathrm{KL}(\pi \,\|\, \pi_0)$ (DeepSeek-V3.2, arXiv:2512.02556; trl's default). length: Dr. GRPO's constant, the
    most tokens of an answer.

    Warns where nothing is left to learn: the gradient is 0, yet an AdamW moves the model by its momentum (trl 1.16's
    does). Raises CourseError for settings that make no sense.
    """
    epsilon = number("epsilon", epsilon, above=0, below=1, such_as=0.2)
    beta = number("beta", beta, least=0, such_as=0.04)
    if length is not None:
        length = whole("length, the most tokens of an answer,", length, least=1, such_as=16)
    tokens = clipped_loss(logps, old, advantages, epsilon)  # (answers, seq)
    if beta:
        if reference is None:
            raise CourseError("the KL needs the log-probabilities of the reference: give them, or beta=0")
        kl = kl_estimate(logps, reference)  # (answers, seq)
        tokens = tokens + beta * (kl * ratios(logps, old) if weighted_kl else kl)
    elif not advantages.any():
        warnings.warn("no group's rewards differ, so they teach nothing: leave this step out", stacklevel=2)
    return answer_mean(tokens, mask) if length is None else fixed_mean(tokens, mask, length)


def rewards_of(reward: Reward, prompts: Sequence[str], answers: Answers) -> Float[Tensor, "prompts group"]:
    r"""What the rule gives each answer. Raises CourseError where it gives no number."""
    asked = [prompt for prompt in prompts for _ in range(answers.group)]
    given = [reward(prompt, text) for prompt, text in zip(asked, answers.texts, strict=True)]
    try:
        found = torch.as_tensor(given, dtype=torch.float32, device=answers.ids.device)
    except (TypeError, ValueError, RuntimeError):
        raise CourseError("a reward must be a number, such as 1.0; the rule gave something else") from None
    if found.numel() != len(answers.ids):
        raise CourseError(f"there must be one reward for each of the {len(answers.ids)} answers; got {found.numel()}.")
    return found.reshape(-1, answers.group)

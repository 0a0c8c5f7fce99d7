r"""Group relative policy optimisation: learning from a reward that a rule gives, without a second network.

Shao et al. 2024, *DeepSeekMath*, arXiv:2402.03300. To a prompt the model draws G answers $o_1 \dots o_G$, and a rule
gives each its reward $r_i$. Who is better than the group is pushed up, the others down:

$$\hat A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r)} \qquad
\rho_{i,t} = \frac{\pi(o_{i,t} \mid o_{i,<t})}{\pi_\text{old}(o_{i,t} \mid o_{i,<t})}$$

$$\mathcal L = -\frac1G \sum_i \frac1{|o_i|} \sum_t
\min\bigl(\rho_{i,t} \hat A_i,\ \mathrm{clip}(\rho_{i,t}, 1-\epsilon, 1+\epsilon) \hat A_i\bigr)$$

(equation 3 with $\beta = 0$, so that no reference is needed). Dr. GRPO (Liu et al. 2025, arXiv:2503.20783) leaves out
two of the divisions, by std(r) and by $|o_i|$: the first weighs prompts that are nearly always or nearly never solved
more, the second makes long wrong answers cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coursekit.errors import CourseError
from coursekit.training.dpo import logps_of as logps_of
from coursekit.training.rollouts import Answers

#: Beside the standard deviation, as in trl: a group of nearly equal rewards is not blown up.
SMALL = 1e-4

#: (prompt, answer) -> reward, a number.
Reward = Callable[[str, str], Any]


def group_advantages(rewards: Float[Tensor, "prompts group"]) -> Float[Tensor, "prompts group"]:
    r"""$\hat A_i$: how much better each answer is than its group, in standard deviations (of n - 1).

    Exactly 0 where all rewards of a group are equal: it teaches nothing.
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
    return centred / (rewards.std(1, keepdim=True) + SMALL)


def clipped_loss(
    logps: Float[Tensor, "answers seq"], old: Float[Tensor, "answers seq"], advantages: Float[Tensor, " answers"],
    epsilon: float = 0.2,
) -> Float[Tensor, "answers seq"]:  # fmt: skip
    r"""$-\min(\rho\hat A,\ \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon)\hat A)$ of each token.

    Where $\rho$ has already gone further than $\epsilon$ in the direction that $\hat A$ asks for, there is no gradient.
    """
    rho, A = (logps - old).exp(), advantages[:, None]  # (answers, seq), (answers, 1)
    return -torch.minimum(rho * A, rho.clamp(1 - epsilon, 1 + epsilon) * A)  # (answers, seq)


def answer_mean(values: Float[Tensor, "answers seq"], mask: Int[Tensor, "answers seq"]) -> Float[Tensor, ""]:
    r"""$\frac1G \sum_i \frac1{|o_i|} \sum_t$: each answer's own mean, then the mean of those, so that all answers weigh
    the same.
    """
    return ((values * mask).sum(1) / mask.sum(1)).mean()


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

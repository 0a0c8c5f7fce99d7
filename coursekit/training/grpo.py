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
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from coursekit.errors import CourseError, flag, keep, number, whole
from coursekit.training.checks import trained_parameters
from coursekit.training.dpo import logps_of, reference_of
from coursekit.training.rollouts import Answers, answer_logits, sample, shared_logits

#: Beside the standard deviation, as in trl: a group of nearly equal rewards is not blown up.
SMALL = 1e-4

#: (prompt, answer) -> reward, a number.
Reward = Callable[[str, str], Any]


def group_advantages(
    rewards: Float[Tensor, "prompts group"], by_std: bool = True
) -> Float[Tensor, "prompts group"]:
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
    centred = centred.masked_fill(
        equal_rewards(rewards)[:, None], 0.0
    )  # a mean of equals can be off by a bit
    return centred / (rewards.std(1, keepdim=True) + SMALL) if by_std else centred


def equal_rewards(rewards: Float[Tensor, "prompts group"]) -> Tensor:
    r"""Which groups have one reward for all of their answers, (prompts)."""
    return rewards.amax(1) == rewards.amin(1)


def ratios(
    logps: Float[Tensor, "answers seq"], old: Float[Tensor, "answers seq"]
) -> Float[Tensor, "answers seq"]:
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
    draws is $\mathrm{KL}(\pi \,\|\, \pi_0)$. The gradient of that mean is another thing: `GRPO.weighted_kl`.
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


@dataclass(frozen=True)
class GRPO:
    r"""What GRPO minimises. Dr. GRPO is by_std=False, by_length=False, beta=0.

    group: answers to each prompt. epsilon: of the clipping. beta: how strongly the reference holds on; 0 does not ask
    it. longest: tokens of an answer at most, and Dr. GRPO's constant. weighted_kl: multiply the KL by $\rho$, whose
    gradient is then that of $\mathrm{KL}(\pi \,\|\, \pi_0)$ (DeepSeek-V3.2, arXiv:2512.02556; trl's default).
    shared: read each prompt once (`shared_logits`); False for models or adapters that cannot.
    Raises CourseError for settings that make no sense.
    """

    group: int = 8
    epsilon: float = 0.2
    beta: float = 0.04
    longest: int = 16
    by_std: bool = True
    by_length: bool = True
    weighted_kl: bool = False
    shared: bool = True

    def __post_init__(self) -> None:
        keep(self, group=whole("group (the answers to one prompt)", self.group, least=2, such_as=8))
        keep(self, epsilon=number("epsilon", self.epsilon, above=0, below=1, such_as=0.2))
        keep(self, beta=number("beta", self.beta, least=0, such_as=0.04))
        keep(self, longest=whole("longest (the tokens of an answer)", self.longest, least=1, such_as=16))
        for name in ("by_std", "by_length", "weighted_kl", "shared"):
            flag(name, getattr(self, name))

    def loss(
        self,
        logps: Float[Tensor, "answers seq"],
        old: Float[Tensor, "answers seq"],
        reference: Float[Tensor, "answers seq"] | None,
        advantages: Float[Tensor, " answers"],
        mask: Int[Tensor, "answers seq"],
    ) -> Float[Tensor, ""]:
        r"""Equation 3, with a minus: the smaller, the better."""
        tokens = clipped_loss(logps, old, advantages, self.epsilon)  # (answers, seq)
        if self.beta and reference is not None:
            kl = kl_estimate(logps, reference)  # (answers, seq)
            tokens = tokens + self.beta * (kl * ratios(logps, old) if self.weighted_kl else kl)
        return answer_mean(tokens, mask) if self.by_length else fixed_mean(tokens, mask, self.longest)

    def logits(self, model: nn.Module, answers: Answers) -> Float[Tensor, "answers seq vocab"]:
        r"""What the answers' tokens were drawn from, under `model` as it is now."""
        return (shared_logits if self.shared else answer_logits)(model, answers)

    def reference(self, model: nn.Module, answers: Answers) -> Float[Tensor, "answers seq"]:
        r"""$\ln\pi_0$ of each token: the adapter off, no gradient."""
        with torch.no_grad(), reference_of(model) as network:
            return logps_of(self.logits(network, answers), answers.ids)


def rewards_of(reward: Reward, prompts: Sequence[str], answers: Answers) -> Float[Tensor, "prompts group"]:
    r"""What the rule gives each answer. Raises CourseError where it gives no number."""
    asked = [prompt for prompt in prompts for _ in range(answers.group)]
    given = [reward(prompt, text) for prompt, text in zip(asked, answers.texts, strict=True)]
    return checked_rewards(given, answers)


def checked_rewards(rewards: Any, answers: Answers) -> Float[Tensor, "prompts group"]:
    r"""Rewards by prompt and answer. Raises CourseError where they are not one number for each answer."""
    try:
        found = torch.as_tensor(rewards, dtype=torch.float32, device=answers.ids.device)
    except (TypeError, ValueError, RuntimeError):
        raise CourseError("a reward must be a number, such as 1.0; the rule gave something else") from None
    if found.numel() != len(answers.ids):
        raise CourseError(
            f"there must be one reward for each of the {len(answers.ids)} answers; got {found.numel()}."
        )
    return found.reshape(-1, answers.group)


@dataclass(frozen=True)
class Step:
    r"""What one step saw: means over its answers. told: share of the prompts whose answers differed in reward, and so
    taught something. kl: nats a token to the reference, None where it was not asked. clipped: share of the tokens
    without a gradient in the last update.
    """

    reward: float
    length: float
    entropy: float
    told: float
    clipped: float
    loss: float
    kl: float | None


def update(
    model: nn.Module,
    answers: Answers,
    rewards: Float[Tensor, "prompts group"],
    settings: GRPO,
    optimizer: torch.optim.Optimizer,
    updates: int = 1,
    clip: float = 1.0,
) -> Step:
    r"""`updates` steps of the optimizer on one set of answers. With one, nothing is clipped.

    Where no group's rewards differ and no KL is asked there is no step, and a warning: the gradient is 0, yet an AdamW
    would move the model by its momentum (trl 1.16's does).
    """
    idle = bool(equal_rewards(rewards).all()) and not settings.beta
    if idle:
        warnings.warn(
            "no group's rewards differ, so they teach nothing: the model stays as it is", stacklevel=2
        )
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    advantages = group_advantages(rewards, settings.by_std).flatten()  # (answers)
    mask = answers.mask
    reference = settings.reference(model, answers) if settings.beta else None
    seen, kl = None, None
    for _ in range(whole("updates", updates, least=1, such_as=1)):
        logits = settings.logits(model, answers)
        logps = logps_of(logits, answers.ids)
        if seen is None:
            seen = answer_mean(entropy(logits.detach()), mask).item()
            old = logps.detach()
            kl = None if reference is None else answer_mean(kl_estimate(old, reference), mask).item()
        loss = settings.loss(logps, old, reference, advantages, mask)
        if idle:
            break
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        optimizer.zero_grad()
    rho, A = ratios(logps.detach(), old), advantages[:, None]
    out = ((rho > 1 + settings.epsilon) & (A > 0)) | ((rho < 1 - settings.epsilon) & (A < 0))
    return Step(
        reward=rewards.mean().item(),
        length=answers.lengths.float().mean().item(),
        entropy=seen or 0.0,
        told=1 - equal_rewards(rewards).float().mean().item(),
        clipped=((out * mask).sum() / mask.sum()).item(),
        loss=loss.item(),
        kl=kl,
    )


def train(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    reward: Reward,
    settings: GRPO,
    *,
    steps: int = 20,
    prompts_a_step: int = 8,
    lr: float = 1e-3,
    updates: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> list[Step]:
    r"""Sample, reward, update, `steps` times: the adapter that is attached learns. Prompts in a shuffled order, again
    and again. The learning rate rises over the first three steps.
    """
    steps = whole("steps", steps, least=1, such_as=20)
    take = min(whole("prompts_a_step", prompts_a_step, least=1, such_as=8), len(prompts))
    trained = list(trained_parameters(model).values())
    optimizer = torch.optim.AdamW(trained, lr=number("lr", lr, above=0, such_as=1e-3), weight_decay=0.0)
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    order: list[int] = []
    history = []
    for step in tqdm(range(steps), desc="GRPO", disable=not progress, leave=False):
        if len(order) < take:
            order += torch.randperm(len(prompts), generator=random).tolist()
        asked, order = [prompts[i] for i in order[:take]], order[take:]
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 3)
        answers = sample(model, tokenizer, asked, settings.group, settings.longest)
        history.append(
            update(model, answers, rewards_of(reward, asked, answers), settings, optimizer, updates)
        )
    return history

r"""Exercises of notebook 11: what honest students write passes, and what goes wrong is named."""

import re

import pytest
import torch

from coursekit.checks import check, exercises
from coursekit.checks.core import judge

EXERCISES = exercises()


def secret_cases(id: str) -> list[tuple]:
    r"""Of 40 secrets one case each."""
    return [EXERCISES[id].cases(f"secret {i}".encode(), 1)[0] for i in range(40)]


def deviations(rewards):
    return rewards - rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)


@pytest.mark.parametrize("small", [1e-3, 1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize("divided", [
    lambda centred, std, small: centred / (std + small),
    lambda centred, std, small: centred / std.clamp(min=small),
    lambda centred, std, small: torch.where(std < small, 0.0, centred / std),
], ids=["added", "clamped", "where"])  # fmt: skip
def test_every_way_round_a_deviation_of_0_passes(divided, small):
    def answer(rewards):
        return divided(*deviations(rewards), small)

    assert check("reinforcement-advantages", answer).status == "passed"
    exercise = EXERCISES["reinforcement-advantages"]
    assert not [c for c in secret_cases(exercise.id) if judge(exercise, c, answer(*c))]


def test_a_deviation_below_1_counts():
    def halves(rewards):  # no known mistake, and as wrong with rewards of 0 and 1
        centred, std = deviations(rewards)
        return centred / torch.where(std < 1, 0.5, std)

    exercise = EXERCISES["reinforcement-advantages"]
    assert check(exercise.id, halves).status == "failed"
    assert all(judge(exercise, c, halves(*c)) for c in secret_cases(exercise.id))


def clipped(logps, old, A, epsilon):
    ratio = (logps - old).exp()
    return -torch.minimum(ratio * A, ratio.clamp(1 - epsilon, 1 + epsilon) * A)


@pytest.mark.parametrize("laid", [lambda a: a, lambda a: a[None]], ids=["alone", "as a row"])
def test_advantages_along_the_tokens_are_named(laid):
    said = check("reinforcement-clipped", lambda n, o, a, e: clipped(n, o, laid(a), e)).message
    assert said == "the advantages lie along the tokens; each answer has one: advantages[:, None]"
    right = check("reinforcement-clipped", lambda n, o, a, e: clipped(n, o, a[:, None], e))
    assert right.status == "passed"


def by_numbers(pattern, most=1.0, least=0.0):
    r"""A rule that pays where these are the numbers of the first line, as they are written."""

    def rule(a, b, answers):
        return [most if re.findall(pattern, answer.split("\n")[0]) == [str(a + b)] else least for answer in answers]

    return rule


@pytest.mark.parametrize("pattern", [r"-?\d+\.?\d*", r"[-\d.]+"])
def test_a_right_answer_that_is_not_paid_is_what_the_message_names(pattern):
    said = check("reinforcement-rule", by_numbers(pattern)).message
    assert said == "a full stop is read as a part of the number: '17.' says 17"
    said = check("reinforcement-rule", by_numbers(pattern, 5.0, -1.0)).message  # no known mistake's numbers
    assert re.match(r"a right answer gets no more than a wrong one: to \d+ \+ \d+, '.*\d\.' gets -1, as '", said)
    exercise = EXERCISES["reinforcement-rule"]
    for case in secret_cases(exercise.id):
        told = judge(exercise, case, by_numbers(pattern)(*case))
        assert told == "a right answer gets no more than a wrong one"


def test_a_wrong_answer_that_is_paid_is_still_named():
    said = check("reinforcement-rule", lambda a, b, given: [5.0 * (str(a + b) in one) for one in given]).message
    assert re.match(r"a wrong answer gets as much as a right one: to \d+ \+ \d+, '(?s:.*)' gets 5 and '", said)


def test_the_loss_of_a_token_by_cases_passes():
    r"""The statement says in words which direction pays: no minimum need be taken."""

    def answer(logps, old, advantages, epsilon):
        ratio, A = (logps - old).exp(), advantages[:, None]
        return -A * torch.where(A > 0, ratio.clamp(max=1 + epsilon), ratio.clamp(min=1 - epsilon))

    exercise = EXERCISES["reinforcement-clipped"]
    assert check(exercise.id, answer).status == "passed"
    assert not [c for c in secret_cases(exercise.id) if judge(exercise, c, answer(*c))]


def test_parts_added_up_sum_by_sum_pass():
    def answer(was, now, before, after):
        found = [0.0] * 4
        for w, n, b, a in zip(was, now, before, after, strict=True):
            kind = {(0, 1): 0, (1, 1): 1, (1, 0): 2, (0, 0): 3}[int(w), int(n)]
            found[kind] += float(a - b) / len(was)
        return found

    exercise = EXERCISES["reinforcement-parts"]
    assert check(exercise.id, answer).status == "passed"
    for case in secret_cases(exercise.id):
        assert not judge(exercise, case, answer(*case))
        was, now, before, after = case
        assert sum(answer(*case)) == pytest.approx((after - before).mean().item()), "the parts add up to the gain"

r"""The open exercise of notebook 01: whatever fits and is worth enough is right, and what is wrong is said."""

import math

import numpy as np
import pytest
from transformers import LlamaConfig

from coursekit.checks import check, judge
from coursekit.checks.core import SEEDS
from coursekit.checks.memory import ASKED, PLAN, STAGES, block, sharded
from coursekit.memory import predict


def plans(bills, cards, size):
    r"""All that fit, full cards or not."""
    for name, *model, activations in bills:
        for stage in STAGES:
            held = sharded(*model, cards, stage)
            for n in range(1, math.floor((size - held) / activations) + 1):
                yield name, stage, n, held + n * activations


@pytest.mark.parametrize("seed", SEEDS)
def test_every_plan_that_fits_and_is_worth_enough_is_right_and_no_other(seed):
    bills, cards, size, score = arguments = PLAN.public[seed]
    best = score(*PLAN.reference(*arguments)[:3])
    assert best == max(score(*plan[:3]) for plan in plans(bills, cards, size))
    worth = {plan: score(*plan[:3]) / best for plan in plans(bills, cards, size)}
    assert all((judge(PLAN, arguments, plan) is None) == (share >= ASKED) for plan, share in worth.items())
    right = {plan[:2] for plan, share in worth.items() if share >= ASKED}
    assert len(right) > 1, "several settings or stages will do"


def test_what_is_wrong_with_a_plan_is_said_and_to_graders_without_numbers():
    bills, cards, size, _ = arguments = PLAN.public[0]
    name, stage, n, needed = PLAN.reference(*arguments)
    held = {bill[0]: sharded(*bill[1:4], cards, stage) for bill in bills}
    one = (needed - held[name]) / n
    wrong = {
        ("SGD with momentum", stage, n, needed): "value 1 of 4 is the name of none of the bills",
        (name, 4, n, needed): "value 2 of 4 is no stage",
        (name, True, n, needed): "value 2 of 4 is no stage",
        (name, stage, 0, held[name]): "value 3 of 4 is no number of sequences",
        (name, stage, n - 0.5, needed - one / 2): "value 3 of 4 is no number of sequences",
        (name, stage, math.inf, needed): "value 3 of 4 is no number of sequences",
        (name, stage, n - 1, needed): "value 4 of 4: it returns",
        (name, stage, n + 1, needed + one): "the plan does not fit",
        (name, stage, 1, held[name] + one): "the plan fits, but its score is too low",
        (name, stage, n): "it returns 3 values, expected 4",
    }
    for plan, said in wrong.items():
        told = PLAN.comparison().difference(plan, PLAN.answer(arguments))
        assert told.startswith(said), (plan, told)
        graded = judge(PLAN, arguments, plan)
        assert graded.startswith(said) and "GB" not in graded and "%" not in graded
    told = PLAN.comparison().difference((name, stage, n + 1, needed + one), PLAN.answer(arguments))
    assert told.endswith(f": it needs {(needed + one) / 1e9:.1f} GB, and a card has {size / 1e9:.1f}")


def test_whole_numbers_may_be_floats_or_numpy_s():
    arguments = PLAN.public[0]
    name, stage, n, needed = PLAN.reference(*arguments)
    for plan in ((name, np.int64(stage), float(n), np.float64(needed)), [name, stage, n, needed * (1 + 1e-7)]):
        assert judge(PLAN, arguments, plan) is None


def test_the_activations_of_several_sequences_are_those_of_one_times_their_number():
    r"""What the exercise supposes, and the notebook's cell."""
    config = LlamaConfig(tie_word_embeddings=False)
    setting = dict(seq=2048, precision="mixed", device="cuda", padded=False)
    for checkpointing in (False, True):
        one, five = (predict(config, batch=n, checkpointing=checkpointing, **setting) for n in (1, 5))
        assert abs(5 * one.activations / five.activations - 1) < 0.01


def test_of_several_mistakes_in_a_bill_each_is_said():
    def narrow_forgotten(rows, seq, d, d_q, heads, f):  # and one result of width f too many
        return 4 * rows * seq * (6 * d + 4 * d_q + 5 * f)

    told = check("memory-block", narrow_forgotten).message
    for part in ("0 of width 1 (", "0 of width seq (", "0 of width heads (", "5 of width f ("):
        assert part in told
    assert "width d " not in told and "width d_q" not in told
    bent = check("memory-block", lambda rows, *sizes: block(rows, *sizes) + sizes[0] ** 3).message
    assert bent.endswith(" is right"), "no counts explain it"

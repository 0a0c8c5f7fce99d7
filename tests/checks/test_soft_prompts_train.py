r"""The prompt of four vectors is scored by what a model does behind it, and each mistake is told by its own name."""

import hashlib

import pytest
import torch

from coursekit.checks import latest, soft_prompts_train
from coursekit.checks.draw import Draw
from coursekit.checks.soft_prompts_train import DESIGN
from coursekit.checks.training import plain


@pytest.fixture(scope="module")
def posing():
    return DESIGN.pose(Draw(b"some batch", DESIGN.id))


def test_what_cannot_be_a_prompt_scores_nothing(posing):
    cases = {
        'it must return {"prompt": P} and nothing else': {"vectors": torch.zeros(4, 576)},
        "P must be a floating-point tensor of shape (n, 576)": {"prompt": torch.zeros(4, 577)},
        "P has 5 vectors: 1 to 4 are asked": {"prompt": torch.zeros(5, 576)},
    }
    for unfit in (torch.nan, torch.inf):
        scored = DESIGN.scored(posing, {"prompt": torch.full((4, 576), unfit)})
        assert scored.message == "prompt holds NaN or infinity: try a smaller learning rate"
    scored = DESIGN.scored(posing, {"prompt": torch.ones(4, 576).long()})
    assert scored.message == "prompt must hold floating-point numbers, and holds int64"
    for message, tensors in cases.items():
        scored = DESIGN.scored(posing, tensors)
        assert (scored.share, scored.message) == (0.0, message)


def test_those_to_learn_from_and_those_to_judge_by_have_no_country_in_common(posing):
    _, ids, mask, labels = posing.arguments
    learn, judge = ({tuple(row[seen.bool()].tolist()) for row, seen in zip(*pair, strict=True)}
                    for pair in ((ids, mask), posing.kept[:2]))  # fmt: skip
    assert len(ids) == len(learn) == 72 and not learn & judge and len(judge) >= 60
    assert torch.equal(labels[labels != -100], ids[labels != -100])


def test_the_words_of_a_question_score_nothing_and_points_begin_above_them(posing, monkeypatch):
    words = soft_prompts_train._vectors(" The capital of")
    assert words.shape == (3, 576)
    monkeypatch.setattr(soft_prompts_train, "IN_WORDS", (" The capital of",))  # one forward pass less
    scored = DESIGN.scored(posing, {"prompt": words})
    assert scored.share == 0.0 < scored.measured < soft_prompts_train.ASKED
    assert scored.message.endswith(f"get {scored.measured:.0%} here: points begin above that")
    monkeypatch.setattr(soft_prompts_train, "_floor", lambda *given: 0.32)
    found = iter((0.36, 0.5))  # behind the prompt, on those to learn from
    monkeypatch.setattr(soft_prompts_train, "_right", lambda *given: next(found))
    assert DESIGN.scored(posing, {"prompt": words}).share == pytest.approx(0.5)


def test_what_the_check_measured_need_not_be_trained_again(monkeypatch):
    found = iter((0.5, *[0.3] * len(soft_prompts_train.IN_WORDS)))  # behind the prompt, behind the words
    monkeypatch.setattr(soft_prompts_train, "_right", lambda *given: next(found))
    P = torch.zeros(4, 576, requires_grad=True)

    def trained(load, ids, mask, labels):
        return {"prompt": P}

    def too_long(load, ids, mask, labels):
        return {"prompt": torch.zeros(5, 576)}

    assert latest(DESIGN.id, trained) is None
    assert DESIGN.looked_at(trained, 0)[0] == "passed"
    kept = latest(DESIGN.id, trained)["prompt"]
    assert torch.equal(kept, P) and not kept.requires_grad
    assert DESIGN.looked_at(too_long, 0)[0] == "failed"
    assert latest(DESIGN.id, too_long) is None


@pytest.mark.slow
def test_an_order_of_the_rows_in_which_a_training_without_a_warm_up_fails_is_not_posed():
    posing = DESIGN.pose(Draw(hashlib.sha256(b"secret 2").digest(), DESIGN.id))
    assert DESIGN.scored(posing, plain(DESIGN.fair(*posing.arguments))).share < 1

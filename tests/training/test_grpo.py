r"""GRPO against trl's, against closed forms and its plain twins; sampling against the model's own probabilities."""

import math

import pytest
import tiny
import torch
from against_trl import Trl
from attached import nonzero

from coursekit.errors import CourseError
from coursekit.methods import LoRA
from coursekit.training.dpo import logps_of
from coursekit.training.grpo import answer_mean, clipped_loss, group_advantages, rewards_of
from coursekit.training.rollouts import Answers, positions, sample, shared_logits

CLOSE = dict(atol=2e-5, rtol=1e-5)


class Letters:
    r"""A tokenizer: a token for each letter, and numbers as text."""

    pad_token_id, eos_token_id = 0, 2

    def __call__(self, texts, add_special_tokens=True):
        return {"input_ids": [[5 + ord(letter) % 80 for letter in text] for text in texts]}

    def batch_decode(self, rows, skip_special_tokens=True):
        return [" ".join(str(int(i)) for i in row if int(i) != self.eos_token_id) for row in rows]


@pytest.fixture(scope="module")
def trl():
    return Trl("grpo")


def given(trl):
    r"""trl's batch as ours: one row for each prompt."""
    ids, mask = trl["batch.completion_ids"], trl["batch.completion_mask"]
    prompts = (trl[f"batch.prompt_{what}"][::4] for what in ("ids", "mask"))
    return Answers(*prompts, ids, mask, trl["old"], [""] * len(ids))


def answer_logits(model, answers):
    r"""The plain twin of `shared_logits`: a row for each answer, its prompt before it."""
    G, A = answers.group, answers.ids.shape[1]
    ids = torch.cat([answers.prompt_ids.repeat_interleave(G, 0), answers.ids], 1)
    mask = torch.cat([answers.prompt_mask.repeat_interleave(G, 0), answers.mask], 1)
    read = {"attention_mask": mask, "position_ids": positions(mask), "logits_to_keep": A + 1, "use_cache": False}
    return model(input_ids=ids, **read).logits[:, :-1]  # position t - 1 speaks of token t


@pytest.mark.parametrize("logits_of", [answer_logits, shared_logits])
def test_log_probabilities_are_trl_s(trl, logits_of):
    model, answers = trl.policy(), given(trl)
    with torch.no_grad():
        logits = logits_of(model, answers)
    torch.testing.assert_close(logps_of(logits, answers.ids) * answers.mask, trl["policy.tokens"], **CLOSE)


def test_advantages_are_trl_s(trl):
    rewards = trl["rewards"].reshape(3, 4)
    torch.testing.assert_close(group_advantages(rewards).flatten(), trl["advantages"], **CLOSE)
    assert not group_advantages(rewards)[2].any()  # exactly 0: its rewards are all 0.1


@pytest.mark.parametrize("logits_of", [answer_logits, shared_logits])
def test_loss_and_gradients_are_trl_s(trl, logits_of):
    model, answers, setting = trl.policy(), given(trl), "grpo"
    logps = logps_of(logits_of(model, answers), answers.ids)
    advantages = group_advantages(trl["rewards"].reshape(3, 4)).flatten()
    loss = answer_mean(clipped_loss(logps, answers.logps, advantages), answers.mask)
    torch.testing.assert_close(loss, trl[f"{setting}/loss"], **CLOSE)
    loss.backward()
    trl.assert_gradients(model, setting, **CLOSE)


def test_the_fixture_has_tokens_on_both_sides_of_the_clipping(trl):
    rho = (trl["policy.tokens"] - trl["old"]).exp()[trl["batch.completion_mask"].bool()]
    assert (rho > 1.2).sum() > 3 and (rho < 0.8).sum() > 3


# Closed forms -------------------------------------------------------------------------------------------------------


def test_equal_rewards_teach_nothing_whatever_their_mean_is_rounded_to():
    rewards = torch.full((1, 16), 0.1)
    assert (rewards - rewards.mean()).any() and not group_advantages(rewards).any()


def test_where_the_clipping_takes_the_gradient_away():
    rho = torch.tensor([[1.1, 1.3, 0.9, 0.7]] * 2, dtype=torch.float64)
    old, logps = torch.zeros_like(rho), rho.log().requires_grad_()
    loss = clipped_loss(logps, old, torch.tensor([2.0, -2.0], dtype=torch.float64), 0.2)
    expected = [[-2.2, -2.4, -1.8, -1.4], [2.2, 2.6, 1.8, 1.6]]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))
    loss.sum().backward()
    # Up only as far as 1 + ε, down only as far as 1 - ε; back, always.
    assert logps.grad.ne(0).tolist() == [[True, False, True, True], [True, True, True, False]]


# Sampling -----------------------------------------------------------------------------------------------------------


def writer(family: str = "llama", **changes):
    model = tiny.decoder(family, **changes)
    LoRA(r=4, alpha=8).attach(model)
    return nonzero(model)


PROMPTS = ["ab", "cdefgh", "i"]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_sampled_answers_have_the_probabilities_that_the_model_gives_them(family):
    model, letters = writer(family, initializer_range=0.35), Letters()
    torch.manual_seed(0)
    usual = sample(model, letters, PROMPTS, group=6, max_new_tokens=9).ids.flatten().mode().values
    letters.eos_token_id = int(usual)  # so that answers end now and then
    answers = sample(model, letters, PROMPTS, group=6, max_new_tokens=9)
    assert len(set(answers.lengths.tolist())) > 2 and answers.group == 6
    plain, shared = answer_logits(model, answers), shared_logits(model, answers)
    there = answers.mask.bool()
    torch.testing.assert_close(shared[there], plain[there], atol=2e-5, rtol=1e-4)
    own = logps_of(plain, answers.ids)
    torch.testing.assert_close(own[there], answers.logps[there], atol=2e-5, rtol=1e-4)
    ended = answers.lengths < answers.ids.shape[1]
    last = answers.ids.gather(1, answers.lengths[:, None] - 1)[:, 0]
    assert ended.any() and (last[ended] == usual).all()


def test_what_is_drawn_follows_the_probabilities():
    model = writer()
    torch.manual_seed(0)
    drawn = sample(model, Letters(), ["ab"], group=4000, max_new_tokens=1).ids[:, 0]
    ids = torch.tensor(Letters()(["ab"])["input_ids"])
    with torch.no_grad():
        p = model(ids).logits[0, -1].softmax(-1)
    found = drawn.bincount(minlength=len(p)) / 4000
    assert (found - p).abs().max() < 5 * (p.max() / 4000).sqrt()


def test_gradients_of_the_fast_twin_are_the_plain_ones():
    torch.manual_seed(0)
    answers = sample(writer(), Letters(), PROMPTS, group=4, max_new_tokens=5)
    grads = []
    for logits_of in (answer_logits, shared_logits):
        model = writer()
        (logps_of(logits_of(model, answers), answers.ids) * answers.mask).sum().backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    for own, other in zip(*grads, strict=True):
        torch.testing.assert_close(own, other, atol=2e-5, rtol=1e-4)


def test_sampling_leaves_the_model_in_its_mode():
    model = writer().train()
    answers = sample(model, Letters(), PROMPTS, group=2, max_new_tokens=3)
    assert model.training and not answers.logps.requires_grad


# Bad input ----------------------------------------------------------------------------------------------------------


def test_bad_input_is_one_clear_line():
    model = writer()
    answers = sample(model, Letters(), PROMPTS, group=2, max_new_tokens=3)
    for call, line in (
        (lambda: rewards_of(lambda p, a: [1, 2], PROMPTS, answers), "one reward for each of the 6 answers; got 12"),
        (lambda: rewards_of(lambda p, a: "good", PROMPTS, answers), "a reward must be a number"),
        (lambda: rewards_of(lambda p, a: None, PROMPTS, answers), "a reward must be a number"),
        (lambda: group_advantages(torch.ones(3, 1)), "at least 2 answers to each prompt; got (3, 1)."),
        (lambda: group_advantages(torch.tensor([[1.0, math.nan]])), "no finite number"),
        (lambda: sample(model, Letters(), []), "at least one prompt"),
        (lambda: sample(model, Letters(), ["a", ""]), "none may be empty"),
        (lambda: sample(model, Letters(), "ab"), "prompts must be a list of texts"),
        (lambda: _answers(answers, mask=torch.zeros_like(answers.mask)), "an answer has no token at all"),
        (lambda: _answers(answers, rows=5), "5 answers are no equal share for each of 3 prompts"),
    ):
        with pytest.raises(CourseError) as caught:
            call()
        assert line in str(caught.value) and "\n" not in str(caught.value)


def _answers(answers: Answers, mask=None, rows=None) -> Answers:
    mask = answers.mask if mask is None else mask
    return Answers(
        answers.prompt_ids, answers.prompt_mask, answers.ids[:rows], mask[:rows], answers.logps[:rows], answers.texts
    )

r"""Lesson 00's preference tuning, as the course and a student write it, against trl's; its reference, its pairs."""

import copy
import math

import pytest
import tiny
import torch
from against_trl import Trl
from attached import nonzero

from coursekit import methods
from coursekit.checks.training_cycle import DPO, LOGPS
from coursekit.errors import CourseError
from coursekit.labels import IGNORED
from coursekit.methods import FullFineTuning, LoRA
from coursekit.tasks.preferences import rated_pairs
from coursekit.tasks.sentiment import split_sentences
from coursekit.training.dpo import from_first_label, reference_of, token_logps
from tests.checks.answers import SOLUTIONS

CLOSE = dict(atol=2e-5, rtol=1e-5)
#: The check's answer and a student's.
LOSSES = pytest.mark.parametrize("dpo", [DPO.reference, SOLUTIONS["training_cycle_dpo"]], ids=["check", "student"])


@pytest.fixture(scope="module")
def trl():
    return Trl("preference")


def token_logps_of(trl, network, logps=token_logps):
    ids, mask = trl["batch.input_ids"], trl["batch.attention_mask"]
    labels = ids.masked_fill(trl["batch.completion_mask"] == 0, IGNORED)
    return logps(network(ids, attention_mask=mask).logits, labels)


@pytest.mark.parametrize(
    "logps", [token_logps, LOGPS.reference, SOLUTIONS["training_cycle_logps"]], ids=["coursekit", "check", "student"]
)
def test_log_probabilities_and_rewards_are_trl_s(trl, logps):
    model = trl.policy()
    with torch.no_grad():
        own = token_logps_of(trl, model, logps)
        with reference_of(model) as network:
            reference = token_logps_of(trl, network, logps)
    for which, found in (("policy", own), ("reference", reference)):
        torch.testing.assert_close(found, trl[f"{which}.tokens"], **CLOSE)
        sums = torch.cat([trl[f"{which}.chosen"], trl[f"{which}.rejected"]])
        torch.testing.assert_close(found.sum(-1), sums, **CLOSE)
    moved = (own - reference).sum(-1)
    assert moved.abs().min() > 0.05
    for beta in (0.1, 0.5):
        rewards = [trl[f"beta={beta:g}/rewards.{which}"] for which in ("chosen", "rejected")]
        torch.testing.assert_close(beta * moved, torch.cat(rewards), **CLOSE)


@LOSSES
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_loss_and_gradients_are_trl_s(trl, beta, dpo):
    model, setting = trl.policy(), f"beta={beta:g}"
    with torch.no_grad(), reference_of(model) as network:
        reference = token_logps_of(trl, network).sum(-1)
    given = [*token_logps_of(trl, model).sum(-1).chunk(2), *reference.chunk(2)]
    loss = dpo(*given, beta)
    torch.testing.assert_close(loss, trl[f"{setting}/loss"], **CLOSE)
    pair_by_pair = torch.stack([dpo(*pair, beta) for pair in zip(*(x.split(1) for x in given), strict=True)])
    torch.testing.assert_close(pair_by_pair, trl[f"{setting}/losses"], **CLOSE)
    loss.backward()
    trl.assert_gradients(model, setting, **CLOSE)


@LOSSES
def test_the_gradient_is_equation_8(dpo):
    r"""-β σ(-Δ) for the chosen answer: the more wrong the reward, the stronger the pull; β/2 at the start."""
    random = torch.Generator().manual_seed(0)
    won, lost, old_won, old_lost = (torch.randn(6, generator=random, dtype=torch.float64) for _ in range(4))
    for before in ((old_won, old_lost), (won.clone(), lost.clone())):
        pair = won.clone().requires_grad_(), lost.clone().requires_grad_()
        loss = dpo(*pair, *before, 0.7)
        loss.backward()
        pull = -0.7 * torch.sigmoid(-0.7 * (won - before[0] - lost + before[1])) / 6
        torch.testing.assert_close(pair[0].grad, pull)
        torch.testing.assert_close(pair[1].grad, -pull)
    assert loss.item() == pytest.approx(math.log(2)) and pull[0].item() == pytest.approx(-0.7 / 2 / 6)


def test_log_probabilities_worked_by_hand():
    p = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [1 / 3] * 3]])
    labels = torch.tensor([[IGNORED, IGNORED, 2, 0]])  # position 1 predicts token 2, position 2 predicts token 0
    torch.testing.assert_close(token_logps(p.log(), labels), torch.tensor([[0.0, math.log(0.7), math.log(0.3)]]))


def test_the_reference_is_the_bare_model_to_the_bit():
    model = LoRA(r=2, alpha=4, targets="all-linear").attach(tiny.decoder("llama", attention_dropout=0.3))
    nonzero(model).train()
    bare, ids = methods.detach(copy.deepcopy(model)).eval(), torch.arange(12).reshape(2, 6)
    with reference_of(model) as reference:
        assert torch.equal(reference(ids).logits, bare(ids).logits)
    assert model.training and methods.attached(model)
    assert not torch.equal(model.eval()(ids).logits, bare(ids).logits)


@pytest.mark.parametrize("first", [0, 1, 3, 5])
def test_nothing_but_zeros_is_missing_before_the_first_label(first):
    model, ids = tiny.decoder("llama"), torch.arange(12).reshape(2, 6)
    labels = ids.clone()
    labels[0, :first], labels[1, : max(first, 4)] = IGNORED, IGNORED
    logits, kept = from_first_label(model, ids, labels)
    assert logits.shape[1] == kept.shape[1] == min(6, 7 - first)
    found, whole = token_logps(logits, kept), token_logps(model(ids).logits, labels)
    torch.testing.assert_close(found, whole[:, -found.shape[1] :])
    assert not whole[:, : -found.shape[1]].any()


@pytest.mark.parametrize("attach", [lambda model: model, FullFineTuning().attach], ids=["bare", "full"])
def test_without_an_adapter_there_is_no_reference(attach):
    with pytest.raises(CourseError, match="this one has none: attach one"), reference_of(attach(tiny.decoder())):
        pass


def test_an_unknown_domain_is_one_clear_line():
    with pytest.raises(CourseError, match="did you mean 'film'"):
        rated_pairs("flim")


@pytest.mark.parametrize("domain", ["film", "product", "tweet", "newspaper"])
def test_rated_pairs_keep_their_promises(domain):
    pairs = rated_pairs(domain)
    for split, rows in pairs.items():
        rating = {s.text: s.rating for s in split_sentences(domain)[split]}
        used = [*rows["chosen"], *rows["rejected"]]
        assert len(set(used)) == len(used) > 0, "a sentence is in one pair at most"
        for row in rows:
            assert rating[row["chosen"]] >= 1.5 and rating[row["rejected"]] <= -1.5
            assert len(row["chosen"].split()) == len(row["rejected"].split())

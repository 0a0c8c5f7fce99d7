r"""DPO against trl's, against closed forms, and its reference against the bare model."""

from __future__ import annotations

import copy
import math

import pytest
import tiny
import tiny_text
import torch
import torch.nn.functional as F
from against_trl import Trl
from attached import nonzero
from datasets import Dataset, DatasetDict

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.labels import IGNORED
from coursekit.methods import FullFineTuning, LoRA
from coursekit.tasks.preferences import prepare_pairs, rated_pairs
from coursekit.training import fit
from coursekit.training.dpo import (
    DPO,
    answer_logps,
    dpo,
    kl_to_reference,
    preference_score,
    reference_of,
    sequence_logps,
    token_logps,
)

#: Of the fixture: (its name, β, ε).
SETTINGS = [
    ("sigmoid", 0.1, 0.0),
    ("sigmoid", 0.5, 0.0),
    ("conservative", 0.1, 0.1),
    ("conservative", 0.5, 0.1),
]


@pytest.fixture(scope="module")
def trl():
    return Trl("preference")


def trl_batch(trl):
    labels = trl["batch.input_ids"].masked_fill(trl["batch.completion_mask"] == 0, IGNORED)
    return {
        "input_ids": trl["batch.input_ids"],
        "attention_mask": trl["batch.attention_mask"],
        "labels": labels,
        "pair": torch.arange(len(labels)) % (len(labels) // 2),
    }


def test_log_probabilities_are_trl_s(trl):
    model, batch = trl.policy(), trl_batch(trl)
    with torch.no_grad():
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        own = sequence_logps(logits, batch["labels"])
        with reference_of(model):
            reference = answer_logps(model, batch)
    expected = [torch.cat([trl[f"{who}.chosen"], trl[f"{who}.rejected"]]) for who in ("policy", "reference")]
    torch.testing.assert_close(
        token_logps(logits, batch["labels"]), trl["policy.tokens"], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(own, expected[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(reference, expected[1], atol=2e-5, rtol=1e-5)
    assert (own - reference).abs().min() > 0.05


@pytest.mark.parametrize(("name", "beta", "smoothing"), SETTINGS)
def test_loss_rewards_and_gradients_are_trl_s(trl, name, beta, smoothing):
    key = f"{name}/beta={beta}/smoothing={smoothing:g}"
    model, batch = trl.policy(), trl_batch(trl)
    found = DPO(beta, smoothing).preference(model, batch)
    close = dict(atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.losses, trl[f"{key}/losses"], **close)
    torch.testing.assert_close(found.loss, trl[f"{key}/loss"], **close)
    torch.testing.assert_close(found.chosen, trl[f"{key}/rewards.chosen"], **close)
    torch.testing.assert_close(found.rejected, trl[f"{key}/rewards.rejected"], **close)
    torch.testing.assert_close(found.margins, trl[f"{key}/margins"], **close)
    assert (found.margins > 0).tolist() == trl[f"{key}/accuracies"].bool().tolist()
    found.loss.backward()
    trl.assert_gradients(model, key, **close)


def test_our_smoothing_is_that_of_trl_s_conservative_loss(trl):
    r"""trl 1.16 takes no notice of smoothing with its usual loss; ours does, and is then its conservative one."""
    given = [trl[f"{who}.{which}"] for who in ("policy", "reference") for which in ("chosen", "rejected")]
    own = dpo(*given, beta=0.1, smoothing=0.1).losses
    torch.testing.assert_close(own, trl["conservative/beta=0.1/smoothing=0.1/losses"], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(own, trl["sigmoid/beta=0.1/smoothing=0.1/losses"], atol=1e-3)


# Closed forms -------------------------------------------------------------------------------------------------------


def four(seed: int = 0, pairs: int = 6):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(pairs, generator=random, dtype=torch.float64).requires_grad_() for _ in range(4)]


def test_at_the_start_the_loss_is_log_two_and_every_pair_pulls_with_half_of_beta():
    chosen, rejected = four()[:2]
    found = dpo(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.3)
    torch.testing.assert_close(found.losses, torch.full((6,), math.log(2), dtype=torch.float64))
    assert not found.margins.any()
    found.losses.sum().backward()
    torch.testing.assert_close(chosen.grad, torch.full((6,), -0.3 / 2, dtype=torch.float64))
    torch.testing.assert_close(rejected.grad, -chosen.grad)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_gradient_is_equation_8(smoothing):
    r"""-β (σ(-Δ) - ε) for the chosen answer: the more wrong the reward, the stronger the pull."""
    chosen, rejected, ref_chosen, ref_rejected = four()
    found = dpo(chosen, rejected, ref_chosen, ref_rejected, 0.7, smoothing)
    found.losses.sum().backward()
    expected = -0.7 * (torch.sigmoid(-found.margins) - smoothing)
    torch.testing.assert_close(chosen.grad, expected)
    torch.testing.assert_close(rejected.grad, -expected)


def test_log_probabilities_worked_by_hand():
    p = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [1 / 3] * 3]])
    labels = torch.tensor(
        [[IGNORED, IGNORED, 2, 0]]
    )  # position 1 predicts token 2, position 2 predicts token 0
    expected = torch.tensor([[0.0, math.log(0.7), math.log(0.3)]])
    torch.testing.assert_close(token_logps(p.log(), labels), expected)
    torch.testing.assert_close(sequence_logps(p.log(), labels), expected.sum(-1))
    own = -F.cross_entropy(p.log()[0, 1:3], labels[0, 2:], reduction="sum")
    torch.testing.assert_close(sequence_logps(p.log(), labels)[0], own)


def test_kl_is_torch_s_own_and_nothing_for_the_reference_itself():
    random = torch.Generator().manual_seed(0)
    logits, reference = (torch.randn(2, 5, 11, generator=random) for _ in range(2))
    labels = torch.tensor([[IGNORED, 1, 2, 3, IGNORED], [IGNORED, IGNORED, IGNORED, 4, 5]])
    at = labels[:, 1:] != IGNORED
    torchs = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits[:, :-1][at]),
        torch.distributions.Categorical(logits=reference[:, :-1][at]),
    ).mean()
    torch.testing.assert_close(kl_to_reference(logits, reference, labels), torchs)
    assert kl_to_reference(logits, logits, labels) == 0
    assert torchs > 0.1


# The reference ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs():
    rows = [
        {
            "prompt": "Name one colour",
            "chosen": " ".join(["red"] * n),
            "rejected": " ".join(["dark"] * n + ["blue"]),
        }
        for n in (1, 2, 3, 1, 2, 3)
    ]
    data = Dataset.from_list(rows)
    return prepare_pairs(DatasetDict(train=data, test=data), tiny_text.tokenizer(), max_length=24)


def with_adapter(dropout: float = 0.0):
    model = LoRA(r=2, alpha=4, targets="all-linear").attach(tiny.decoder("llama", attention_dropout=dropout))
    nonzero(model)
    return model


def test_the_reference_is_the_bare_model_to_the_bit(pairs):
    model = with_adapter(dropout=0.3).train()
    bare = methods.detach(copy.deepcopy(model)).eval()
    batch = pairs.collate(pairs.data["train"].to_list())
    with reference_of(model) as reference:
        assert torch.equal(answer_logps(reference, batch), answer_logps(bare, batch))
    assert model.training and methods.attached(model)
    assert not torch.equal(answer_logps(model.eval(), batch), answer_logps(bare, batch))


def test_training_raises_the_margin_and_leaves_the_base_alone(pairs):
    model = LoRA(r=2, targets="all-linear").attach(tiny.decoder("llama"))
    base = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    before = preference_score(model, pairs, progress=False)
    assert (before.margin, before.kl, before.prefers.value) == (0.0, 0.0, 0.0)
    history = fit(model, pairs, steps=12, batch_size=3, lr=3e-2, objective=DPO(0.5), progress=False)
    assert history.loss[0] == pytest.approx(math.log(2), abs=1e-6)
    assert history.noted["margin"][0] == 0.0 < history.noted["margin"][-1]
    after = preference_score(model, pairs, beta=0.5, progress=False)
    assert after.prefers.value == 1.0 and after.margin > 0.1 and after.kl > 0
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base)


def test_scores_do_not_depend_on_the_batches(pairs):
    model = with_adapter()
    one, all_ = (preference_score(model, pairs, batch_size=b, progress=False) for b in (1, 6))
    assert (one.margin, one.kl) == pytest.approx((all_.margin, all_.kl), rel=1e-5)
    assert torch.equal(one.prefers.correct, all_.prefers.correct)
    assert preference_score(model, pairs, limit=2, progress=False).prefers.n == 2


def test_the_likelier_answer_of_the_model_and_of_its_reference():
    words = ("red", "blue", "dark", "fine", "good")  # one token each: no answer is likelier for being short
    rows = [{"prompt": "Name", "chosen": a, "rejected": b} for a in words for b in words if a != b]
    data = Dataset.from_list(rows)
    pairs = prepare_pairs(DatasetDict(train=data, test=data), tiny_text.tokenizer(), max_length=24)
    model, bare = with_adapter(), tiny.decoder("llama").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.requires_grad else 1)  # strong enough to change its mind
    found = preference_score(model, pairs, batch_size=7, progress=False)
    batch = next(pairs.batches("test", len(rows)))
    with torch.no_grad():
        own, was = (answer_logps(network, batch).chunk(2) for network in (model.eval(), bare))
    assert torch.equal(found.likelier.correct, own[0] > own[1])
    assert torch.equal(found.likelier_before.correct, was[0] > was[1])
    assert not torch.equal(found.likelier.correct, found.likelier_before.correct)


def test_accumulated_pairs_count_as_one_batch(pairs):
    runs = []
    for batch_size, accumulate in ((6, 1), (4, 2), (1, 6)):
        model = with_adapter()
        data = dict(batch_size=batch_size, accumulate=accumulate)
        first = fit(model, pairs, steps=1, **data, lr=1e-2, objective=DPO(0.3), progress=False)
        runs.append((first.loss[0], first.noted["margin"][0]))
    assert runs[0] == pytest.approx(runs[2], abs=1e-5)
    assert pairs.weight(pairs.collate(pairs.data["train"].to_list())) == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPO(beta=0.0), "beta must be a number above 0, such as 0.1; got 0.0."),
        (lambda: DPO(smoothing=0.5), "smoothing .* must be a number of at least 0 and below 0.5; got 0.5."),
        (lambda: DPO().preference(tiny.decoder(), BATCH), "this one has none: attach one"),
        (lambda: DPO().preference(FullFineTuning().attach(tiny.decoder()), BATCH), "this one has none: attach one"),
        (lambda: rated_pairs("flim"), "did you mean 'film'"),
    ],
)
def test_mistakes_are_one_clear_line(make, message):
    with pytest.raises(CourseError, match=message):
        make()


_IDS = torch.tensor([[1, 2, 3], [1, 2, 4]])
BATCH = {
    "input_ids": _IDS,
    "attention_mask": torch.ones_like(_IDS),
    "labels": _IDS,
    "pair": torch.tensor([0, 0]),
}


# Pairs --------------------------------------------------------------------------------------------------------------


def test_pairs_worked_by_hand():
    words = tiny_text.tokenizer()
    ids = words.convert_tokens_to_ids
    rows = Dataset.from_list([{"prompt": "Name one", "chosen": "red .", "rejected": "blue"}])
    made = prepare_pairs(DatasetDict(train=rows), words)
    prompt = ids(["###", "Instruction", ":", "Name", "one", "###", "Response", ":"])
    won, lost = ids(["red", ".", "[EOS]"]), ids(["blue", "[EOS]"])
    batch = made.collate(made.data["train"].to_list())
    pad = words.pad_token_id
    assert batch["input_ids"].tolist() == [prompt + won, [*prompt, *lost, pad]]
    assert batch["labels"].tolist() == [[IGNORED] * 8 + won, [IGNORED] * 8 + lost + [IGNORED]]
    assert batch["attention_mask"].tolist() == [[1] * 11, [1] * 10 + [0]]


def test_a_pair_that_does_not_fit_is_reported():
    words = tiny_text.tokenizer()
    rows = [{"prompt": "Name one", "chosen": "red", "rejected": "blue " * n} for n in (1, 9)]
    data = DatasetDict(train=Dataset.from_list(rows))
    with pytest.warns(
        UserWarning, match="1 of 2 examples are longer than max_length=12 .*the longest has 18"
    ):
        made = prepare_pairs(data, words, max_length=12)
    (cut,) = made.left_out
    assert (cut.row, cut.tokens, cut.lost, cut.learned) == (1, 18, 6, 10) and len(made.data["train"]) == 1
    with pytest.raises(CourseError, match="no pair to train on: the longest has 18"):
        prepare_pairs(data, words, max_length=6)
    with pytest.raises(CourseError, match="no column rejected"):
        prepare_pairs(DatasetDict(train=Dataset.from_list([{"prompt": "a", "chosen": "b"}])), words)


@pytest.mark.parametrize("domain", ["film", "product", "tweet", "newspaper"])
def test_rated_pairs_keep_their_promises(domain):
    from coursekit.tasks.sentiment import split_sentences

    pairs = rated_pairs(domain)
    for split, rows in pairs.items():
        rating = {s.text: s.rating for s in split_sentences(domain)[split]}
        used = [*rows["chosen"], *rows["rejected"]]
        assert len(set(used)) == len(used) > 0, "a sentence is in one pair at most"
        for row in rows:
            assert rating[row["chosen"]] >= 1.5 and rating[row["rejected"]] <= -1.5
            assert len(row["chosen"].split()) == len(row["rejected"].split())


def test_pairs_and_other_rows_are_not_mistaken_for_each_other(pairs):
    from coursekit.evaluation import answer_loss
    from coursekit.forgetting import L2SP

    model = FullFineTuning().attach(tiny.decoder("llama"))
    with pytest.raises(CourseError, match="train with fit.*objective=DPO"):
        fit(model, pairs, steps=1, batch_size=2, progress=False)
    with pytest.raises(CourseError, match="train with fit.*objective=DPO"):
        fit(model, pairs, steps=1, batch_size=2, objective=L2SP(model, 0.1), progress=False)
    with pytest.raises(CourseError, match="preference_score"):
        answer_loss(model, pairs)
    with pytest.raises(CourseError, match="DPO learns from pairs, and these rows are none"):
        fit(model, tiny_text.prepared("decoder"), steps=1, objective=DPO(), progress=False)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pairs_train_on_a_gpu_in_every_precision(pairs, dtype):
    model = LoRA(r=2, targets="all-linear").attach(tiny.decoder("llama").to("cuda", dtype))
    history = fit(model, pairs, steps=6, batch_size=3, lr=1e-2, objective=DPO(0.5), progress=False)
    assert history.loss[0] == pytest.approx(math.log(2), abs=1e-4 if dtype is torch.float32 else 2e-2)
    assert history.noted["margin"][-1] > 0 and preference_score(model, pairs, progress=False).kl > 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_packed_rows_train_on_a_gpu(dtype):
    from coursekit.tasks.instructions import prepare_instructions

    rows = [
        dict(instruction="Name one", context="", output=word, kind="")
        for word in ("red", "blue", "dark", "dull")
    ]
    data = DatasetDict(train=Dataset.from_list(rows))
    losses = []
    for packed in (False, True):
        prepared = prepare_instructions(data, tiny_text.tokenizer(), 40, packed=packed)
        model = tiny.decoder("llama").to("cuda", dtype)
        n = len(prepared.data["train"])
        losses.append(fit(model, prepared, steps=3, batch_size=n, lr=1e-3, progress=False).loss)
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


@pytest.mark.parametrize("beta", [0.02, 0.5])
def test_the_margins_of_a_score_have_the_beta_that_is_asked_for(beta):
    words, model = tiny_text.tokenizer(), nonzero(LoRA(r=2).attach(tiny.decoder("llama")))
    rows = [{"prompt": "Name a film", "chosen": "good story", "rejected": "bad"}] * 2
    rows[1] = {"prompt": "Name a plot", "chosen": "fine end", "rejected": "dull slow"}
    pairs = prepare_pairs({"train": Dataset.from_list(rows), "test": Dataset.from_list(rows)}, words)
    usual = preference_score(model, pairs, progress=False)
    other = preference_score(model, pairs, beta=beta, progress=False)
    assert usual.margin != 0 and other.margin == pytest.approx(usual.margin * beta / 0.1, rel=1e-5)

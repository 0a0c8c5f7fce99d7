r"""The comparison of remedies: old and new data kept apart, the same budget for all, the given model untouched."""

import copy
import math

import pytest
import torch

from coursekit.errors import CourseError
from coursekit.experiments import forgetting, results
from coursekit.fingerprint import fingerprint
from coursekit.forgetting import domains as module
from coursekit.forgetting.domains import KINDS, RATE, REMEDIES, Remedy, load_domains, pretrained
from coursekit.methods import LoRA, attached, trainable, update_of
from coursekit.tasks import load_text
from coursekit.training.pretraining import END, small_decoder


@pytest.fixture(scope="module")
def domains():
    return load_domains()


@pytest.fixture(scope="module")
def model(domains):
    return small_decoder(len(domains.tokenizer), d_model=32, layers=1, heads=2, device="cpu")


def test_the_new_domain_is_in_nothing_that_the_model_learns_first(domains):
    old = domains.tokenizer.decode([t for row in domains.old.data["train"]["input_ids"] for t in row])
    for name in domains.olds:
        texts = load_text(name)
        assert sum(text in old for text in texts["train"]["text"][:100]) > 95
        assert not any(text in old for text in texts["test"]["text"][:100] if len(text) > 60)
    assert not any(text in old for text in load_text("tweet")["train"]["text"][:300] if len(text) > 30)
    assert set(domains.tests) == {*domains.olds, "tweet"}


def test_each_domain_is_tested_on_its_own_test_text(domains):
    for name, rows in domains.tests.items():
        text = domains.tokenizer.decode(rows[0]["input_ids"])
        first = load_text(name)["test"]["text"][:2]
        assert text.startswith(f"{first[0]}{END}{first[1]}"[: len(text)]) or first[0].startswith(text)


def test_the_old_domains_are_mixed_from_the_first_block_on(domains):
    start = domains.tokenizer.decode([t for row in domains.old.data["train"][:40]["input_ids"] for t in row])
    read = set(start.split(END)[1:-1])
    for name in domains.olds:
        assert read & set(load_text(name)["train"]["text"])


def test_perplexities_and_their_mean_worked_by_hand(domains, model):
    found = domains.perplexities(model, blocks=5)
    for name, rows in domains.tests.items():
        ids = torch.tensor(rows[:5]["input_ids"])
        with torch.no_grad():
            p = model(input_ids=ids).logits.log_softmax(-1)
        mean = -p[:, :-1].gather(-1, ids[:, 1:, None]).mean().item()
        assert found[name] == pytest.approx(math.exp(mean), rel=1e-4)
    ids = torch.tensor(domains.new.data["validation"][:5]["input_ids"])
    with torch.no_grad():
        p = model(input_ids=ids).logits.log_softmax(-1)
    mean = -p[:, :-1].gather(-1, ids[:, 1:, None]).mean().item()
    assert domains.validation(model, blocks=5) == pytest.approx(math.exp(mean), rel=1e-4)
    text = domains.tokenizer.decode(ids[0])
    assert text.startswith(load_text("tweet")["validation"]["text"][0][: len(text)])
    assert domains.kept({"film": 2.0, "product": 4.0, "newspaper": 8.0, "tweet": 99.0}) == pytest.approx(4.0)


@pytest.mark.parametrize("remedy", [next(r for r in REMEDIES if r.kind == kind) for kind in KINDS], ids=str)
def test_each_remedy_learns_from_as_many_rows_and_leaves_the_given_model_alone(domains, model, remedy):
    before, rows = fingerprint(model.state_dict()), []

    def count(network, args, given):
        rows.extend([1] * len(given["input_ids"]) if network.training else [])

    hook = model.register_forward_pre_hook(count, with_kwargs=True)  # which the copy that is tuned has too
    tuned, history = remedy.tune(model, domains, steps=3, batch_size=4)
    hook.remove()
    assert len(rows) == 3 * 4
    assert fingerprint(model.state_dict()) == before and not attached(model)
    assert len(history) == 3 and all(math.isfinite(loss) for loss in history.loss)
    assert ("penalty" in history.noted) == (remedy.kind in ("L2-SP", "EWC"))
    whole = sum(p.numel() for p in model.parameters())
    assert (trainable(tuned) == whole) == (remedy.kind not in ("LoRA", "OFT", "linear layers"))
    if remedy.kind in ("EWC", "LoRA", "OFT"):  # the ones that draw or measure something before they train
        again, _ = remedy.tune(model, domains, steps=3, batch_size=4)
        assert fingerprint(again.state_dict()) == fingerprint(tuned.state_dict()) != before


def test_going_back_is_on_the_line_between_the_start_and_plain_fine_tuning(domains, model):
    tuned, _ = Remedy("full", RATE).tune(model, domains, steps=3, batch_size=4)
    back, _ = Remedy("WiSE-FT", 0.75).tune(model, domains, steps=3, batch_size=4)
    for start, end, between in zip(*(m.parameters() for m in (model, tuned, back)), strict=True):
        torch.testing.assert_close(between, start + 0.75 * (end - start))
        assert not torch.equal(start, end)


def test_the_linear_layers_move_alone_and_are_those_that_lora_adapts(domains, model):
    tuned, _ = Remedy("linear layers", 1e-3).tune(model, domains, steps=3, batch_size=4)
    after = dict(tuned.named_parameters())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, after[name])}
    LoRA(r=2, targets="all-linear").attach(other := copy.deepcopy(model))
    assert moved == {f"{path}.weight" for path in update_of(other).deltas}


@pytest.mark.parametrize("kind", ["multi-task", "replay"])
def test_the_strength_is_the_share_of_old_rows(domains, model, monkeypatch, kind):
    given = []
    monkeypatch.setattr(module, "fit", lambda model, data, **settings: given.append(data))
    Remedy(kind, 0.25).tune(model, domains, steps=10, batch_size=4)
    (data,) = given
    old = {tuple(row) for row in domains.old.data["train"][:40]["input_ids"]}
    mixed = [tuple(row) in old for row in data.data["train"]["input_ids"]]
    assert sum(mixed) == 10 and len(mixed) == 40
    assert mixed != sorted(mixed) and mixed != sorted(mixed, reverse=True), "shuffled"


def test_ewc_looks_at_the_old_domains(domains, model, monkeypatch):
    given = []
    monkeypatch.setattr(module, "fit", lambda model, data, **settings: given.append(data))
    monkeypatch.setattr(module, "EWC", lambda model, batches, strength: given.extend(batches))
    Remedy("EWC", 10).tune(model, domains, steps=1, batch_size=4)
    looked_at, data = given
    assert looked_at["input_ids"].tolist() == domains.old.data["train"][:128]["input_ids"]
    assert data is domains.new


def test_the_learning_rate_is_the_remedys_unless_another_is_asked_for(domains, model, monkeypatch):
    given = []
    monkeypatch.setattr(module, "fit", lambda model, data, lr, **settings: given.append(lr))
    for remedy in (Remedy("full", 1e-4), Remedy("L2-SP", 1), Remedy("LoRA", 2), Remedy("OFT", 2)):
        remedy.tune(model, domains, steps=1, batch_size=4)
        remedy.tune(model, domains, steps=1, batch_size=4, lr=0.5)
    assert given == [1e-4, 0.5, module.RATE, 0.5, module.LORA_RATE, 0.5, module.OFT_RATE, 0.5]


def test_remedies_of_no_strength_are_plain_fine_tuning(domains, model):
    plain, history = Remedy("full", 3e-3).tune(model, domains, steps=2, batch_size=4)
    for kind in ("L2-SP", "EWC"):
        tuned, same = Remedy(kind, 0).tune(model, domains, steps=2, batch_size=4)
        assert same.loss == history.loss and fingerprint(tuned.state_dict()) == fingerprint(plain.state_dict())


def test_pre_training_repeats_and_its_seed_matters(domains):
    one, other, third = (pretrained(domains, 1, 2, seed, progress=False)[0] for seed in (0, 0, 1))
    assert fingerprint(one.state_dict()) == fingerprint(other.state_dict()) != fingerprint(third.state_dict())


def test_mistakes_are_one_clear_line():
    with pytest.raises(CourseError, match="unknown remedy 'reply'; did you mean 'replay'"):
        Remedy("reply", 0.1)
    with pytest.raises(CourseError, match="a new one that is none of them"):
        load_domains("film")
    with pytest.raises(CourseError, match="did you mean 'tweet'"):
        load_domains("tweets")
    assert str(Remedy("replay", 0.05)) == "replay, 5% old" and str(Remedy("EWC", 1000)) == "EWC, λ = 1000"


# The tables that the notebooks reload -------------------------------------------------------------------------------


def test_the_table_of_forgetting_is_complete():
    runs = results.read("forgetting").runs
    wanted = {(r.kind, float(r.strength), float(r.rate)) for r in REMEDIES} | {("before", 0.0, 0.0)}
    found = {(*forgetting.way(run), run.cell.rate, run.cell.seed) for run in runs}
    assert found >= {(*one, seed) for one in wanted for seed in (0, 1, 2)} and len(found) == len(runs)
    # All others are of the searches, whose rates are the ones that the remedies have.
    others = {(kind, strength) for kind, strength, rate, _ in found if (kind, strength, rate) not in wanted}
    assert others <= set(forgetting.SEARCHED.items())
    best = forgetting.chosen(runs)
    assert best.keys() == {*forgetting.SEARCHED, "full", "linear layers"}
    assert best["full"] == RATE and all(best[r.kind] == r.rate for r in REMEDIES if r.kind in forgetting.SEARCHED)
    for kind, tried in forgetting.searches(runs).items():
        assert min(tried) < best[kind] < max(tried), "no optimum at the end of what was tried"
    assert len({(run.more["pretraining"], run.more["batch"], run.more["blocks"]) for run in runs}) == 1
    assert all(float(run.more[name]) > 1 for run in runs for name in ("film", "product", "newspaper", "tweet"))


def test_the_table_of_examples_is_complete():
    found = results.read("in_context")
    wanted = {f"{n} shots" for n in (0, 1, 5, 10)} | {f"LoRA on {n}" for n in (10, 100, 1000)}
    assert wanted | {"LoRA on the prompt's 10"} <= set(found.arms)
    assert all(0 < share < 1 for arm in found.arms for share in found.seeds(arm))


def test_a_start_of_lora_is_the_seeds_and_nothing_elses(domains, model):
    def start(seed):
        torch.manual_seed(torch.seed() % 2**31)  # whatever happened before
        learned, _ = Remedy("LoRA", 4).tune(model, domains, 1, 2, seed, lr=1e-30)
        return {name: p.detach() for name, p in learned.named_parameters() if name.endswith(".A")}

    one, again, other = start(0), start(0), start(1)
    assert one and all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_multi_task_is_replay_of_half_the_rows(domains, model, monkeypatch):
    r"""So notebook 01b tells of one remedy, and experiments.forgetting names both alike."""
    seen = {}
    for kind in ("multi-task", "replay"):
        monkeypatch.setattr(module, "fit", lambda model, data, kind=kind, **_: seen.setdefault(kind, data))
        Remedy(kind, 0.5).tune(model, domains, steps=100, batch_size=16)
    rows = [data.data["train"]["input_ids"] for data in seen.values()]
    assert len(rows[0]) == 1600 and rows[0][:] == rows[1][:]

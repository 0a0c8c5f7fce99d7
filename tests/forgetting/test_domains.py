r"""The comparison of remedies: old and new data kept apart, the same budget for all, the given model untouched."""

from __future__ import annotations

import csv
import math

import pytest
import torch

from coursekit.errors import CourseError
from coursekit.fingerprint import fingerprint
from coursekit.forgetting.domains import KINDS, REMEDIES, Remedy, load_domains, pretrained
from coursekit.methods import attached, trainable
from coursekit.paths import DATA
from coursekit.tasks import load_text
from coursekit.training.pretraining import small_decoder


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


def test_perplexities_and_their_mean_worked_by_hand(domains, model):
    found = domains.perplexities(model, blocks=5)
    for name, rows in domains.tests.items():
        ids = torch.tensor(rows[:5]["input_ids"])
        with torch.no_grad():
            p = model(input_ids=ids).logits.log_softmax(-1)
        mean = -p[:, :-1].gather(-1, ids[:, 1:, None]).mean().item()
        assert found[name] == pytest.approx(math.exp(mean), rel=1e-4)
    assert domains.kept({"film": 2.0, "product": 4.0, "newspaper": 8.0, "tweet": 99.0}) == pytest.approx(4.0)


@pytest.mark.parametrize("remedy", [next(r for r in REMEDIES if r.kind == kind) for kind in KINDS], ids=str)
def test_each_remedy_learns_from_as_many_rows_and_leaves_the_given_model_alone(domains, model, remedy):
    before = fingerprint(model.state_dict())
    tuned, history = remedy.tune(model, domains, steps=3, batch_size=4)
    assert fingerprint(model.state_dict()) == before and not attached(model)
    assert len(history) == 3 and all(math.isfinite(loss) for loss in history.loss)
    assert ("penalty" in history.noted) == (remedy.kind in ("L2-SP", "EWC"))
    whole = sum(p.numel() for p in model.parameters())
    assert (trainable(tuned) == whole) == (remedy.kind != "LoRA")
    again, _ = remedy.tune(model, domains, steps=3, batch_size=4)
    assert fingerprint(again.state_dict()) == fingerprint(tuned.state_dict()) != before


def test_remedies_of_no_strength_are_plain_fine_tuning(domains, model):
    plain, history = Remedy("full", 3e-3).tune(model, domains, steps=2, batch_size=4)
    for kind in ("L2-SP", "EWC"):
        tuned, same = Remedy(kind, 0).tune(model, domains, steps=2, batch_size=4)
        assert same.loss == history.loss and fingerprint(tuned.state_dict()) == fingerprint(
            plain.state_dict()
        )


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


def lines(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_of_forgetting_is_complete():
    rows = lines("forgetting.csv")
    wanted = {(r.kind, f"{r.strength:g}") for r in REMEDIES} | {("before", "0")}
    seeds = {row["seed"] for row in rows}
    assert len(seeds) >= 3
    assert {(r["remedy"], r["strength"], r["seed"]) for r in rows} == {
        (*one, s) for one in wanted for s in seeds
    }
    assert len({(r["pretraining"], r["steps"], r["batch"], r["blocks"]) for r in rows}) == 1, (
        "one budget for all"
    )
    assert all(float(row[name]) > 1 for row in rows for name in ("film", "product", "newspaper", "tweet"))


def test_the_table_of_examples_is_complete():
    rows = lines("in_context.csv")
    found = {(row["way"], int(row["examples"]), row["seed"]) for row in rows}
    assert {("shots", k, "0") for k in (0, 1, 5, 10)} <= found
    assert {("LoRA", n, s) for n in (10, 100, 1000) for s in "012"} <= found
    assert len(found) == len(rows) and len({row["sentences"] for row in rows}) == 1
    assert all(0 < int(row["correct"]) < int(row["sentences"]) for row in rows)

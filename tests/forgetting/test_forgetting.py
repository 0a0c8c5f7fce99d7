r"""Replay row by row, and penalties against formulas written by hand."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import tiny
import tiny_text
import torch
from attached import labelled
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from coursekit.errors import CourseError
from coursekit.forgetting import EWC, L2SP, replay
from coursekit.methods import BitFit, FullFineTuning, LoRA
from coursekit.tasks.task import PreparedTask, Task
from coursekit.training import fit

QUICK = dict(steps=4, batch_size=4, lr=1e-2, progress=False)
SGD = QUICK | dict(optimizer="sgd", clip=None)
STILL = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
each_kind = pytest.mark.parametrize(("kind", "family"), [("encoder", "bert"), ("decoder", "llama")])


# Replay -------------------------------------------------------------------------------------------------------------

words = cache(tiny_text.tokenizer)


@cache
def numbered(part: int, rows: int = 60, kind: str = "encoder"):
    r"""A data set whose rows say where they are from: part, split and place."""
    splits = {}
    for split, name in enumerate(("train", "validation", "test")):
        ids = [[part, split, row] for row in range(rows)]
        splits[name] = Dataset.from_dict({
            "input_ids": ids, "attention_mask": [[1, 1, 1]] * rows,
            "labels": [row % 2 for row in range(rows)] if kind == "encoder" else ids,
        })  # fmt: skip
    return tiny_text.Prepared(f"part {part}", kind, words(), DatasetDict(splits), 16 + part)


def rows_of(prepared, split: str = "train") -> list[tuple[int, ...]]:
    return [tuple(ids) for ids in prepared.split(split)[:]["input_ids"]]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.20])
def test_replay_puts_exactly_its_share_in_the_place_of_new_rows(share):
    new, old = numbered(0, 100), numbered(1, 30)
    found = rows_of(replay(new, old, share, 100))
    count = round(share * 100)
    assert sorted(found) == [(0, 0, row) for row in range(100 - count)] + [(1, 0, row) for row in range(count)]
    assert replay(new, old, share, 100).name == f"part 0 {100 - count} % + part 1 {count} %"


@pytest.mark.parametrize(("share", "rows", "count"), [(0.05, 30, 2), (0.05, 50, 2), (0.29, 50, 14), (0.0, 50, 0)])
def test_replay_counts_as_round_does(share, rows, count):
    r"""Halves to the even neighbour, and a share as the computer has it: 0.29 of 50 are a little less than 14.5."""
    found = rows_of(replay(numbered(0), numbered(1), share, rows))
    assert sum(ids[0] for ids in found) == count == round(share * rows) and len(found) == rows


def test_the_order_is_the_seed_s_and_the_rest_the_new_task_s():
    new, old = named(("bad", "good")), numbered(1)
    one, other = (replay(new, old, 0.5, 40, seed=seed) for seed in (1, 2))
    assert rows_of(one) != rows_of(other) and sorted(rows_of(one)) == sorted(rows_of(other))
    assert rows_of(one) == rows_of(replay(new, old, 0.5, 40, seed=1))
    firsts = [ids[0] for ids in rows_of(one)]
    assert firsts != sorted(firsts) and 0 < sum(firsts[:20]) < 20  # well mixed
    for split in ("validation", "test"):
        assert rows_of(one, split) == rows_of(new, split)
    assert (one.max_length, one.kind) == (16, "encoder")
    assert one.task is new.task  # `accuracy` makes its prompts from it
    assert replay(new, replace(old, name=new.name), 0.5, 10).name == "part 0 50 % + part 0 (old) 50 %"
    assert all(len(part.split("train")) == 60 for part in (new, old))


def test_parts_join_whatever_form_their_numbers_have():
    one, ids = numbered(0), Value("int64")
    for label in (Value("int64"), Value("int8"), ClassLabel(names=["no", "yes"])):
        features = Features(labels=label, attention_mask=[ids], input_ids=[ids])
        other = replace(one, data=DatasetDict(train=Dataset.from_dict(one.split("train")[:], features)))
        for parts in ((one, other), (other, one)):
            mixed = replay(*parts, 0.5, 20)
            assert sorted(rows_of(mixed)) == sorted(2 * rows_of(one)[:10])
            batch = mixed.collate(list(mixed.split("train")))
            assert batch["labels"].tolist() == [row % 2 for row in batch["input_ids"][:, 2].tolist()]


def named(words: tuple[str, ...], part: int = 0, kind: str = "encoder"):
    rows = numbered(part, kind=kind)
    task = Task("film/own", words, DatasetDict())
    return PreparedTask(rows.name, kind, rows.tokenizer, rows.data, rows.max_length, task=task)


def rated():
    rows = numbered(1).split("train")[:] | {"labels": [0.5] * 60}
    return replace(numbered(1), data=DatasetDict(train=Dataset.from_dict(rows)))


class OtherWords:
    def get_vocab(self):
        return {"[PAD]": 0}


def facts(part: int):
    return numbered(part, kind="decoder")


def with_positions():
    rows = facts(1).split("train").add_column("position_ids", [[0, 1, 0]] * 60)
    return replace(facts(1), data=DatasetDict(train=rows))


@pytest.mark.parametrize(
    ("new", "old", "given", "message"),
    [
        (numbered(0), numbered(1), dict(rows=0), "rows must be a positive integer, such as 1000; got 0."),
        (numbered(0), numbered(1), dict(rows=2.5), r"rows must be a positive integer, such as 1000; got 2\.5\."),
        (numbered(0), numbered(1), dict(share=-0.1), "share must be a number of at least 0 and below 1, such as 0.05"),
        (numbered(0), numbered(1), dict(share=1.0), "share must be a number of at least 0 and below 1"),
        (numbered(0), numbered(1), dict(share=float("nan")), "share must be a number of at least 0 and below 1"),
        (numbered(0), numbered(1), dict(rows=124), "part 0 has 60 training rows, and 62 of the 124 would come from it"),
        (numbered(0), numbered(1), dict(rows=80, share=0.9), "part 1 has 60 training rows, and 72 of the 80"),
        (numbered(0), facts(1), {}, "part 1 is for decoders and part 0 for encoders: prepare both for the same kind"),
        (numbered(0), replace(numbered(1), tokenizer=OtherWords()), {}, "part 1 has the tokens of another tokenizer"),
        (
            facts(0), with_positions(), {},
            r"part 1 and part 0 differ in their columns \(position_ids\).*prepare both in the same way",
        ),
        (numbered(0), rated(), {}, "part 1 is labelled with ratings and part 0 with classes: a classifier learns one"),
        (
            named(("bad", "good")), named(("bad", "mixed", "good"), 1), {},
            r"part 1 is labelled with classes \(bad, mixed, good\) and part 0 with classes \(bad, good\)",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_mixed_is_said_in_one_line(new, old, given, message):
    with pytest.raises(CourseError, match=message) as error:
        replay(new, old, **(dict(share=0.5, rows=10) | given))
    assert "\n" not in str(error.value)


def test_parts_that_fit_are_mixed():
    r"""The same tokens under another tokenizer; classes without names; a decoder's tasks, whatever their words."""
    assert replay(numbered(0), replace(numbered(1), tokenizer=tiny_text.tokenizer()), 0.5, 4)
    for named_part in (named(("bad", "good")), numbered(0)):
        assert replay(named_part, named(("bad", "good"), 1), 0.5, 4)
    assert replay(named(("bad", "good")), numbered(1), 0.5, 4)
    assert replay(rated(), rated(), 0.5, 4)
    mixed = replay(with_positions(), with_positions(), 0.5, 4)
    assert mixed.split("train")[:]["position_ids"] == [[0, 1, 0]] * 4
    words = (("bad", "good"), ("a", "b", "c"))
    assert replay(*(named(labels, i, "decoder") for i, labels in enumerate(words)), 0.5, 4)


# What both penalties share ------------------------------------------------------------------------------------------


def batches(family: str) -> list[dict]:
    return [labelled(family, seed=1), labelled(family, seed=2, padded=True)]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def stray(model: nn.Module, scale: float = 0.1) -> nn.Module:
    r"""Move every parameter."""
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn(p.shape, generator=random).to(p))
    return model


def gradients(loss: torch.Tensor, model: nn.Module) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True))


MADE = {
    "L2SP": lambda model, family: L2SP(model, alpha=0.3),
    "EWC": lambda model, family: EWC(model, batches(family), strength=50.0),
}
each_penalty = pytest.mark.parametrize("make", MADE.values(), ids=MADE)
each_family = pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])


@each_penalty
@each_family
def test_at_the_start_there_is_no_penalty(make, family):
    model, (batch, _) = tiny.model(family), batches(family)
    objective = make(model, family)
    bare = model(**batch).loss
    total, noted = objective(model, batch)
    assert noted.keys() == {"penalty"} and noted["penalty"].item() == 0.0
    assert torch.equal(total, bare)
    expected, found = gradients(bare, model), gradients(objective(model, batch)[0], model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@each_penalty
def test_away_from_it_the_penalty_is_added_to_the_loss(make):
    model, (batch, _) = tiny.model("gpt2"), batches("gpt2")
    objective = make(model, "gpt2")
    total, noted = objective(stray(model), batch)
    assert noted["penalty"].item() > 0
    assert total.item() == pytest.approx((model(**batch).loss + objective.penalty()).item(), rel=1e-6)
    assert all(not tensor.requires_grad for tensor in objective.start.values())


@each_penalty
@each_kind
def test_a_weight_of_zero_trains_bit_for_bit_as_without(make, kind, family):
    data = tiny_text.prepared(kind)
    plain, model = tiny.model(family), tiny.model(family)
    history = fit(plain, data, **QUICK)
    objective = L2SP(model, 0.0) if make is MADE["L2SP"] else EWC(model, batches(family), 0.0)
    assert fit(model, data, objective=objective, **QUICK).loss == history.loss
    assert all(torch.equal(p, plain.get_parameter(name)) for name, p in model.named_parameters())


@each_penalty
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_kind
def test_half_precision_is_held_in_float32(make, dtype, kind, family):
    r"""`fit` trains float32 copies. Steps too small for the model's own precision are seen by the penalty."""
    model = tiny.model(family, dtype=dtype)
    objective = make(model, family)
    before = weights(model)
    assert {tensor.dtype for tensor in objective.start.values()} == {torch.float32}
    history = fit(model, tiny_text.prepared(kind), objective=objective, **(SGD | dict(steps=8, lr=1e-5)))
    unseen = torch.cat([(p == before[name]).flatten() for name, p in model.named_parameters()])
    assert unseen.float().mean() > 0.95
    assert history.noted["penalty"][0] == 0 < history.noted["penalty"][-1]
    assert {p.dtype for p in model.parameters()} == {dtype}


@each_penalty
def test_autocast_leaves_the_penalty_alone(make):
    model = tiny.model("bert")
    objective = make(model, "bert")
    stray(model)
    with torch.autocast("cpu", torch.bfloat16):
        _, noted = objective(model, batches("bert")[0])
    assert torch.equal(noted["penalty"], objective.penalty())
    double = tiny.model("bert", dtype=torch.float64)
    assert make(double, "bert").penalty().dtype is torch.float64


@each_penalty
def test_a_wrapper_around_the_model_is_the_model(make):
    r"""As in several processes: what is held is found by itself, and its gradients are those without a wrapper."""
    model, (batch, _) = tiny.model("llama"), batches("llama")
    objective = make(model, "llama")
    expected = gradients(objective(stray(model), batch)[0], model)
    torch.distributed.init_process_group("fake", rank=0, world_size=1, store=FakeStore())  # gloo's threads may hang
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        with wrapped.no_sync():  # one process has nobody to average with
            objective(wrapped, batch)[0].backward()
    finally:
        torch.distributed.destroy_process_group()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])


@each_penalty
def test_what_it_was_not_made_for_is_an_error(make):
    objective = make(tiny.model("bert"), "bert")
    with pytest.raises(CourseError, match="was made for another model, or before a method was attached"):
        fit(tiny.model("bert"), tiny_text.prepared("encoder"), objective=objective, **QUICK)
    model = tiny.model("bert")
    objective = make(model, "bert")
    with pytest.raises(CourseError, match="make it anew from this model"):
        fit(LoRA(r=2).attach(model), tiny_text.prepared("encoder"), objective=objective, **QUICK)
    with pytest.raises(CourseError, match="nothing to hold: no parameter of the model has requires_grad=True"):
        make(tiny.model("bert").requires_grad_(False), "bert")


@each_penalty
def test_a_new_head_is_free(make):
    model = tiny.model("bert")
    objective = make(model, "bert")
    model.classifier = nn.Linear(tiny.D_MODEL, 2)
    fit(model, tiny_text.prepared("encoder"), objective=objective, **SGD)
    objective.penalty().backward()
    assert model.classifier.weight.grad is None and model.bert.pooler.dense.weight.grad.any()


@each_penalty
def test_only_what_trains_is_held(make):
    model = tiny.model("bert").requires_grad_(False)
    model.bert.encoder.layer[1].requires_grad_(True)
    objective = make(model, "bert")
    assert objective.start.keys() == {n for n, _ in model.named_parameters() if n.startswith("bert.encoder.layer.1.")}


@pytest.mark.gpu
@each_penalty
def test_it_follows_the_model_to_the_gpu(make):
    model, (batch, _) = tiny.model("bert"), batches("bert")
    objective = make(model, "bert")
    expected = objective(stray(model), batch)[1]["penalty"]
    found = objective(model.cuda(), {key: value.cuda() for key, value in batch.items()})[1]["penalty"]
    torch.testing.assert_close(found.cpu(), expected)
    fit(model, tiny_text.prepared("encoder"), objective=objective, **QUICK)


class Interruption(Exception):
    pass


@each_penalty
def test_a_resumed_run_equals_the_uninterrupted_one(make, tmp_path):
    data, given = tiny_text.prepared("encoder"), QUICK | dict(steps=8, checkpoint_every=2)

    def fresh():
        model = tiny.model("bert", dtype=torch.bfloat16)
        return model, make(model, "bert")

    def fail(*_):
        if next(calls) == 5:
            raise Interruption

    straight, objective = fresh()
    history = fit(straight, data, objective=objective, **given)
    halted, objective = fresh()
    calls = iter(range(100))
    hook = halted.register_forward_pre_hook(fail)
    with pytest.raises(Interruption):
        fit(halted, data, objective=objective, checkpoint=tmp_path, **given)
    # The half-trained model is no start: what is made from it would hold the wrong weights.
    hook.remove()
    with pytest.raises(CourseError, match=f"another run: objective was {type(objective).__name__}"):
        fit(halted, data, objective=make(halted, "bert"), checkpoint=tmp_path, **given)
    resumed, objective = fresh()
    again = fit(resumed, data, objective=objective, checkpoint=tmp_path, **given)
    assert (again.loss, again.noted) == (history.loss, history.noted)
    assert all(torch.equal(p, straight.get_parameter(name)) for name, p in resumed.named_parameters())


# L2-SP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_l2sp_pulls_to_the_start_and_the_head_to_zero(family):
    r"""The gradient is α (w − w⁰), bit for bit, and β w on the head; so says torch of a formula written by hand."""
    model = tiny.model(family)
    heads = ("classifier.",) if family == "bert" else ()
    alpha, beta, start = 0.3, 0.7 if heads else 0.0, weights(model)
    objective = L2SP(model, alpha, beta)
    stray(model)
    found = gradients(objective.penalty(), model)
    by_hand = sum(
        beta / 2 * (p**2).sum() if name.startswith("classifier.") else alpha / 2 * ((p - start[name]) ** 2).sum()
        for name, p in model.named_parameters()
    )
    torch.testing.assert_close(objective.penalty(), by_hand)
    torched = gradients(by_hand, model)
    for name, p in model.named_parameters():
        closed = beta * p if name.startswith("classifier.") else alpha * (p - start[name])
        assert torch.equal(found[name], closed.detach())
        torch.testing.assert_close(found[name], torched[name])


def test_l2sp_finds_the_head_of_a_method_and_says_what_it_is():
    model = LoRA(r=2).attach(tiny.model("bert"))
    objective = L2SP(model, alpha=0.1, beta=0.01)
    assert {name.partition(".")[0] for name in objective.head} == {"classifier"} and objective.body
    assert all("branches" in name for name in objective.body)
    fit(model, tiny_text.prepared("encoder"), objective=objective, **QUICK)
    one, same, other = (L2SP(tiny.model("bert", seed=seed), 1, 0.5) for seed in (0, 0, 1))
    assert repr(one).startswith("L2SP(alpha=1.0, beta=0.5, start=")
    assert repr(one) == repr(same) != repr(other)
    headed = tiny.model("bert")
    headed.classifier.weight.data += 1  # a head is drawn anew in every session
    assert repr(L2SP(headed, 1, 0.5)) == repr(one)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(alpha=-0.1), r"alpha must be a number of at least 0; got -0\.1\."),
        (dict(alpha=float("nan")), "alpha must be a number of at least 0; got nan"),
        (dict(alpha=0.1, beta=float("inf")), "beta must be a number of at least 0; got inf"),
        (dict(alpha=0.1, beta=0.1), r"beta=0\.1 is for a task head, and none of this model trains"),
    ],
)
def test_settings_of_l2sp_that_make_no_sense(given, message):
    with pytest.raises(CourseError, match=message):
        L2SP(tiny.model("gpt2"), **given)


# EWC ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("attach", [False, True])
def test_the_fisher_is_the_mean_of_squared_gradients_of_single_examples(family, attach):
    model = tiny.model(family)
    if attach:
        FullFineTuning().attach(model)
    objective, expected = EWC(model.train(), batches(family), strength=1.0), {}
    assert model.training and all(p.requires_grad for p in model.parameters())
    model.eval()
    for batch in batches(family):
        for row in range(3):
            example = {key: value[row : row + 1] for key, value in batch.items()}
            for name, slope in gradients(model(**example).loss, model).items():
                expected[name] = expected.get(name, 0) + slope.double() ** 2 / 6
    assert objective.fisher.keys() == expected.keys() and objective.examples == 6
    for name, found in objective.fisher.items():
        torch.testing.assert_close(found.double(), expected[name], atol=1e-12, rtol=1e-6)


@each_family
def test_ewc_pulls_each_weight_as_it_mattered(family):
    model, strength = tiny.model(family), 20.0
    objective = EWC(model, batches(family), strength)
    start = weights(model)
    stray(model)
    found = gradients(objective.penalty(), model)
    free = 0
    for name, p in model.named_parameters():
        fisher = objective.fisher[name]
        torch.testing.assert_close(found[name], strength * fisher * (p - start[name]).detach(), rtol=1e-6, atol=0)
        free += int((fisher == 0).sum())
        assert not found[name][fisher == 0].any()
    # Words and places that the old task does not have; a tied output layer scores every word.
    assert (free > 0) == (family != "llama")
    by_hand = sum(
        strength / 2 * (objective.fisher[name] * (p - start[name]) ** 2).sum() for name, p in model.named_parameters()
    )
    torch.testing.assert_close(objective.penalty(), by_hand)


class Numbers(nn.Module):
    r"""A model that is a few numbers x, with a `loss` of them and of a batch's labels."""

    def __init__(self, x, loss):
        super().__init__()
        self.x, self.loss = nn.Parameter(torch.tensor(x)), loss

    def forward(self, labels, **_):
        return SimpleNamespace(loss=self.loss(self.x, labels))


def quadratic(a, b):
    r"""½ a (x − b)² of each number, whatever the batch holds."""
    return lambda x, labels: (torch.tensor(a) / 2 * (x - torch.tensor(b)) ** 2).sum()


def test_ewc_on_two_numbers_worked_by_hand():
    r"""The old task asks only the first number: its slope is 1 · (1 − 0) = 1, so F = (1, 0)."""
    model = Numbers([1.0, -2.0], quadratic([1.0, 0.0], [0.0, 0.0]))
    objective = EWC(model, [{"labels": torch.zeros(3)}], strength=4.0)
    assert objective.fisher["x"].tolist() == [1.0, 0.0] and objective.examples == 3
    model.x.data = torch.tensor([2.0, 5.0])
    assert objective.penalty().item() == 2.0  # 4/2 · 1 · (2 − 1)²
    objective.penalty().backward()
    assert model.x.grad.tolist() == [4.0, 0.0]


def test_ewc_ends_between_the_tasks_where_algebra_says():
    r"""The minimum of ½ a (x − b)² + ½ λ F (x − x⁰)² is (a b + λ F x⁰) / (a + λ F)."""
    model = Numbers([1.0, -2.0], quadratic([1.0, 0.25], [0.0, 0.0]))
    start, a, b, strength = model.x.detach().clone(), torch.tensor([2.0, 0.5]), torch.tensor([3.0, 3.0]), 4.0
    objective = EWC(model, [{"labels": torch.zeros(1)}], strength)
    fisher = torch.tensor([1.0, 0.25])  # (1 · 1)² and (¼ · −2)²
    assert torch.equal(objective.fisher["x"], fisher)
    model.loss = quadratic(a.tolist(), b.tolist())
    history = fit(model, tiny_text.prepared("encoder"), objective=objective, **(SGD | dict(steps=200, lr=0.1)))
    expected = (a * b + strength * fisher * start) / (a + strength * fisher)
    torch.testing.assert_close(model.x.detach(), expected, atol=1e-5, rtol=1e-5)
    held = strength / 2 * (fisher * (expected - start) ** 2).sum()
    assert history.noted["penalty"][-1] == pytest.approx(held.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "end"),
    [
        (lambda model, old: None, (1.5, 1.5)),
        (lambda model, old: L2SP(model, alpha=1.0), (1.0, 1.0)),
        (lambda model, old: EWC(model, old, strength=4.0), (0.0, 3.0)),
    ],
)
def test_ewc_solves_the_new_task_with_what_the_old_one_does_not_need(make, end):
    r"""Old: x₀ is the mean of ±1, so F = (1, 0). New: x₀ + x₁ = 3, which L2-SP only approaches."""
    model = Numbers([0.0, 0.0], lambda x, labels: ((x[0] - labels) ** 2).mean() / 2)
    objective = make(model, [{"labels": torch.tensor([1.0, -1.0])}])
    model.loss = lambda x, labels: (x.sum() - 3) ** 2 / 2
    fit(model, tiny_text.prepared("encoder"), objective=objective, **(SGD | dict(steps=200, lr=0.2)))
    torch.testing.assert_close(model.x.detach(), torch.tensor(end), atol=1e-5, rtol=1e-5)


def test_ewc_says_what_it_is():
    def made(seed=0, of=None):
        return repr(EWC(tiny.model("bert", seed=seed), of or batches("bert"), 1000))

    assert made().startswith("EWC(strength=1000.0, examples=6, fisher=")
    assert len({made(), made(), made(seed=1), made(of=batches("bert")[:1]), made(of=[labelled("bert", seed=9)])}) == 4


def test_what_has_no_fisher_is_an_error():
    one = labelled("bert")
    unlabelled = {key: value for key, value in one.items() if key != "labels"}
    broken = tiny.model("bert")
    broken.classifier.weight.data.fill_(torch.nan)
    silent = Numbers([0.0, 0.0], quadratic([1.0, 1.0], [0.0, 0.0]))
    for model, examples, strength, message in (
        (tiny.model("bert"), [one], -1.0, r"strength must be a number of at least 0; got -1\.0\."),
        (tiny.model("bert"), [{}], 1.0, "batches: each is a dict of tensors"),
        (tiny.model("bert"), [], 1.0, "EWC looks at the old task: give some batches of it with labels"),
        (tiny.model("bert"), [unlabelled], 1.0, "a batch without labels has no loss"),
        (LoRA(r=2).attach(tiny.model("bert")), [one], 1.0, "the weights of the model itself, and LoRA trains others"),
        (BitFit().attach(tiny.model("bert")), [one], 1.0, "and BitFit trains others beside them: call detach"),
        (broken, [one], 1.0, "some fisher scores are not finite"),
        (silent, [{"labels": torch.zeros(1)}], 1.0, "every fisher score is 0"),
    ):
        with pytest.raises(CourseError, match=message) as error:
            EWC(model, examples, strength)
        assert "\n" not in str(error.value)
    merged = LoRA(r=2).attach(tiny.model("bert"))
    LoRA(r=2).merge(merged, undo=False)
    assert EWC(merged, [one], 1.0).fisher

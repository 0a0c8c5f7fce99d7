r"""One run: its states, its threshold, its precision; and the topics that are declared."""

import copy
import importlib
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_text
import torch
import torch.nn.functional as F
from datasets import DatasetDict
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from coursekit import models
from coursekit.autocast import ProductsInFloat32, bfloat16_products
from coursekit.comparison.candidates import CANDIDATES
from coursekit.experiments import bench as benches
from coursekit.experiments import search
from coursekit.experiments.bench import Bench, Setting
from coursekit.experiments.card import card
from coursekit.experiments.recipe import Recipe
from coursekit.experiments.results import AUC, Results
from coursekit.experiments.run import autocast, baselines, threshold, train
from coursekit.experiments.table import Cell, Run, read_csv
from coursekit.forgetting import domains
from coursekit.paths import DATA
from coursekit.tasks.task import Task, load_text, task_of

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
TOPICS = sorted(path.stem for path in (ROOT / "benchmarks" / "topics").glob("[!_]*.py"))


@pytest.fixture
def decoder(monkeypatch):
    loaded = tiny.decoder("llama", max_position_embeddings=512), tiny_text.tokenizer()
    monkeypatch.setattr(benches, "load_decoder", lambda name: loaded)
    monkeypatch.setattr(benches, "is_encoder", lambda name: False)


@pytest.mark.slow
def test_what_is_asked_of_a_trained_model_in_another_state_is_a_run_of_its_own():
    @contextmanager
    def wrong_way_round(model, bench, seed):
        model.classifier.weight.data.neg_(), model.classifier.bias.data.neg_()
        yield
        model.classifier.weight.data.neg_(), model.classifier.bias.data.neg_()

    bench = Bench(Setting("film", "two", "minilm", batch_size=4, sentences=24, validation=8))
    cell = Cell("a", 2, 1e-3, 0)
    recipe = Recipe(CANDIDATES["full"], also={"turned": wrong_way_round, "again": lambda *_: nullcontext()})
    own, turned, again = train(bench, recipe, cell, every=2)
    assert [run.cell.arm for run in (own, turned, again)] == ["a", "a, turned", "a, again"]
    assert turned.correct == tuple(not right for right in own.correct) and again.correct == own.correct
    assert turned.curve == ((2, pytest.approx(1 - own.curve[0][1])),) and own.loss > 0
    assert np.allclose(turned.margins, -np.array(own.margins), atol=1e-2)
    ranked = Results("t", (own, turned))
    turned, area = (ranked.accuracy(arm, AUC).value for arm in ("a, turned", "a"))
    assert turned == pytest.approx(1 - area)


def test_a_loss_that_is_not_finite_is_a_run_with_the_reason(decoder):
    bench = Bench(Setting("film", "two", "tiny", batch_size=4, sentences=8, validation=8))
    (run,) = train(bench, Recipe(CANDIDATES["full"], autocast=False), Cell("a", 3, 1e38, 0), every=1)
    assert run.why and run.curve == () == run.correct


def test_what_needs_no_training(decoder):
    bench = Bench(Setting("film", "two", "tiny", batch_size=4, sentences=40, validation=40))
    constant, own, fitted = baselines(bench, bf16=False)
    assert [run.cell.arm for run in (constant, own, fitted)] == ["constant", "untrained", "untrained, fitted threshold"]
    found = Results("t", (constant, own, fitted))
    untrained, moved = (found.accuracy(arm, AUC).value for arm in ("untrained", fitted.cell.arm))
    assert untrained == pytest.approx(moved), "only a threshold"
    assert list(baselines(bench, {run.cell.arm for run in (constant, own, fitted)})) == []


def test_a_threshold_is_the_middle_of_the_best_gap():
    margins, labels = np.array([3.0, 1.0, 2.0, 5.0]), np.array([True, False, False, True])
    assert threshold(margins, labels) == 2.5
    assert threshold(margins, np.array([True] * 4)) == 0.0 and threshold(margins, np.array([False] * 4)) == 6.0


def _loss_and_gradients(product, dtype):
    r"""A layer with a bias and a product of two batches, forward and backward, under `product`."""
    torch.manual_seed(0)
    layer, x = (thing.bfloat16().to(dtype) for thing in (nn.Linear(96, 80), torch.randn(4, 24, 96)))
    with product:
        y = layer(x)
        loss = (y @ y.mT).float().square().mean()
        loss.backward()
    return [loss.detach(), *(p.grad.float() for p in layer.parameters())]


def test_products_in_float32_are_those_in_bfloat16_summed_in_another_order():
    native, ours, exact = (
        _loss_and_gradients(product, dtype)
        for product, dtype in (
            (nullcontext(), torch.bfloat16), (ProductsInFloat32(), torch.bfloat16), (nullcontext(), torch.float64)
        )
    )  # fmt: skip
    for one, other, right in zip(native, ours, exact, strict=True):
        size = right.abs().max()
        assert (one - other).abs().max() < 0.003 * size
        # Rounded as often as bfloat16's own are, and so as far from the exact numbers.
        assert 5e-5 < (other - right).abs().max() / size < 0.01


class _Products(TorchDispatchMode):
    r"""Notes the precision of every product."""

    def __init__(self):
        super().__init__()
        self.seen: list[torch.dtype] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in ("mm", "linear", "matmul")):
            self.seen.append(args[1].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_no_product_is_left_in_bfloat16_with_gradients_or_without(mode, bias):
    layer, x = nn.Linear(96, 32, bias=bias, dtype=torch.bfloat16), torch.randn(2, 5, 96, dtype=torch.bfloat16)
    b = layer.bias.float() if bias else None
    with _Products() as products, mode(), ProductsInFloat32():
        found = layer(x), x @ x.mT
    assert len(products.seen) == 2 and set(products.seen) == {torch.float32}
    assert torch.equal(found[0], F.linear(x.float(), layer.weight.float(), b).bfloat16())
    assert torch.equal(found[1], (x.float() @ x.float().mT).bfloat16())


def test_products_of_float32_matrices_stay_as_they_are():
    for one, other in zip(
        _loss_and_gradients(nullcontext(), torch.float32), _loss_and_gradients(ProductsInFloat32(), torch.float32),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(one, other)


@pytest.mark.parametrize("speed, instead", [("AVX2", True), ("AVX512", False)])
def test_only_a_processor_without_bfloat16_computes_in_float32(monkeypatch, speed, instead):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: speed)
    seen = []
    monkeypatch.setattr(ProductsInFloat32, "__enter__", lambda self: seen.append(True))
    monkeypatch.setattr(ProductsInFloat32, "__exit__", lambda self, *error: None)
    for on in (True, False):
        with autocast("cpu", on):
            assert torch.is_autocast_enabled("cpu") == on
    with bfloat16_products("cuda"):  # a GPU has instructions for them, whatever the processor beside it is
        pass
    assert seen == [True] * instead


def test_under_autocast_a_step_computes_with_the_weights_of_now():
    layer, x = torch.nn.Linear(4, 4, bias=False), torch.ones(1, 4)
    with autocast("cpu", True):
        before = layer(x)
        with torch.no_grad():
            layer.weight += 1
        after = layer(x)
    assert before.dtype is torch.bfloat16
    torch.testing.assert_close(after - before, torch.full_like(before, 4), atol=0.1, rtol=0)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_goes_on_from_its_file_and_makes_no_run_twice(topic):
    module = importlib.import_module(f"topics.{topic}")
    path = DATA / "evidence" / f"{topic}.csv"
    runs = read_csv(path) if path.exists() else []
    left = search.next_cells(module.GRID, runs)
    assert not {run.cell for run in runs} & {*left}
    names = {arm.name for arm in module.GRID.arms}
    lost = {run.cell.arm for run in runs if not any(run.cell.arm.startswith(name) for name in names)}
    assert lost <= {"constant", "untrained", "untrained, fitted threshold"}
    text = card(module.GRID, runs, {"command": "x"}, module.__doc__)
    assert all(f"| {arm.name} |" in text for arm in module.GRID.arms) or not runs


def test_evidence_is_made_on_one_thread(tmp_path, monkeypatch):
    evidence = importlib.import_module("evidence")
    module, found, before = importlib.import_module("topics.probe"), [], torch.get_num_threads()
    monkeypatch.setattr(evidence, "Bench", lambda *_: None)
    monkeypatch.setattr(evidence, "write_card", lambda *_: None)

    def carry(bench, recipe, cell):
        found.append(torch.get_num_threads())
        return [Run(cell, ((0, 0.5),), (True,), 1, 1.0)]

    monkeypatch.setattr(module, "carry", carry)
    try:
        torch.set_num_threads(2)
        evidence.main("probe", evidence=tmp_path)
    finally:
        torch.set_num_threads(before)
    assert {*found} == {1} and len(read_csv(tmp_path / "probe.csv")) == len(found) == 3 * len(module.GRID.arms)


@pytest.mark.slow
def test_a_probe_ends_where_torch_finds_no_slope_and_is_tested_in_order():
    module = importlib.import_module("topics.probe")
    torch.manual_seed(0)
    x, labels = torch.randn(60, 5).double(), torch.arange(60) % 3 % 2
    w = torch.tensor(module.fit(x.numpy(), labels.numpy(), 0.01), requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x @ w[:-1] + w[-1], labels.double()) + 0.005 * (w[:-1] ** 2).sum()
    loss.backward()
    assert w.detach().abs().max() > 0.05 and w.grad.abs().max() < 1e-4
    bench = Bench(Setting("film", "two", "minilm", sentences=40, validation=30))
    bench.prepared = bench.prepared.take(64)
    means, cls = (module.carry(bench, arm.name, Cell(arm.name, 0, 0.0, 1))[0] for arm in module.GRID.arms[:2])
    assert len(means.correct) == 40 and means.parameters == bench.config.hidden_size + 1
    assert means.margins != cls.margins and float(means.more["penalty"]) in module.PENALTIES
    one, again, other = (
        module.carry(bench, "probe", Cell("probe with 16 examples", 0, 0.0, seed))[0] for seed in (0, 0, 1)
    )
    assert one.margins == again.margins != other.margins and len(one.correct) == 40
    batch = bench.prepared.collate([bench.prepared.split("test")[7]])
    batch.pop("labels")
    with torch.no_grad():
        alone = bench.model(0).bert(**batch).last_hidden_state.mean(1)[0]  # one sentence: nothing is padded
    assert np.allclose(module.read(bench, "test")["probe"][7], alone, atol=1e-4)
    labels = task_of(bench.prepared).data["test"]["label"][:40]
    assert means.correct == tuple((margin > 0) == label for margin, label in zip(means.margins, labels, strict=True))


@pytest.mark.slow
def test_what_an_encoder_keeps_is_asked_of_other_text(monkeypatch):
    module = importlib.import_module("topics.retention")
    whole = module.source.task()
    few = DatasetDict({split: rows.select(range(120)) for split, rows in whole.data.items()})
    monkeypatch.setattr(module.source, "task", lambda: Task(whole.name, whole.labels, few))
    bench = Bench(Setting("film", "two", "minilm", sentences=40, validation=30))
    bench.prepared = bench.prepared.take(64)
    runs = {}
    for name, rate in (("head", 0.3), ("full", 1e-3)):
        (runs[name],) = module.carry(bench, module.GRID.arm(name).recipe, Cell(name, 5, rate, 0))
    rest = [text for text, label in zip(few["test"]["text"], few["test"]["label"], strict=True) if label != 0]
    assert whole.labels[0] == "film" and len(rest) > 60
    assert runs["head"].correct == (True,) * len(rest) and 0 < sum(runs["full"].correct) < len(rest)
    assert all({"film", "probe"} < run.more.keys() and not run.margins for run in runs.values())
    assert float(runs["head"].more["probe"]) > 0.5, "of four sources, in as many sentences of each"
    model, tokenizer = models.load_encoder("minilm")  # one sentence at a time, so nothing is padded
    with torch.no_grad():
        means = [model.bert(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)[0] for text in rest]
    alike = F.cosine_similarity(torch.stack(means)[:, None], torch.stack(means)[None], dim=-1).fill_diagonal_(-1)
    assert (module.neighbours(module.features(model, bench.device)) == alike.argmax(1).numpy()).mean() > 0.98


def test_what_a_decoder_keeps_is_the_loss_on_other_text(decoder, monkeypatch):
    module = importlib.import_module("topics.retention_decoder")
    monkeypatch.setattr(module, "TEXTS", 3)
    bench = Bench(Setting("film", "two", "tiny", batch_size=4, sentences=4, validation=4))
    before = copy.deepcopy(bench.model(0))
    (run,) = module.carry(bench, module.GRID.arm("full").recipe, Cell("full", 2, 3e-2, 0))
    assert len(run.correct) == 4 and module.OTHERS == ("product", "newspaper", "tweet")
    changes = []
    for domain in module.OTHERS:
        rows = [
            bench.prepared.tokenizer(text, return_tensors="pt").input_ids for text in load_text(domain)["test"]["text"]
        ]
        rows = [ids for ids in rows if ids.numel() > 1][:3]
        with torch.no_grad():
            nats = [before(ids, labels=ids).loss.item() * (ids.numel() - 1) for ids in rows]
        untrained = sum(nats) / sum(ids.numel() - 1 for ids in rows)
        assert float(run.more[f"before_{domain}"]) == pytest.approx(untrained, rel=1e-2)  # products in bfloat16
        changes.append(float(run.more[domain]) - float(run.more[f"before_{domain}"]))
    assert run.retention == pytest.approx(np.mean(changes), abs=1e-4) and min(map(abs, changes)) > 0


def test_examples_in_the_prompt_and_in_training(decoder):
    module = importlib.import_module("topics.in_context")
    bench = Bench(Setting("film", "five", "tiny", batch_size=8, sentences=4, validation=4))
    bench.prepared = bench.prepared.task.for_decoder(bench.prepared.tokenizer, max_length=64)
    for arm in (module.GRID.arms[1], module.GRID.arms[-1]):
        (run,) = module.carry(bench, arm.recipe, Cell(arm.name, min(1, arm.steps), 1e-3, 0))
        assert len(run.correct) and float(run.more["tokens"]) > 0
        assert bool(run.curve) == (arm.recipe.how == "own") and (run.parameters > 0) == (arm.recipe.how == "own")


@pytest.fixture
def lesson(decoder, monkeypatch):
    r"""The decoder that a lesson's cells load."""
    monkeypatch.setattr(models, "load_decoder", benches.load_decoder)


@pytest.mark.parametrize("arm", ["DPO", "chosen alone"])
def test_a_lesson_s_preference_tuning_is_measured_pair_by_pair(lesson, arm):
    module = importlib.import_module("topics.dpo")
    small = {"tuning_steps": 1, "unseen_answers": 2, "longest_answer": 2, "held_out_pairs": 3}
    cell = Cell(arm, 2, 1e-2, 1)
    film, product = module.carry(None, module.GRID.arm(arm).recipe, cell, **small)
    assert film.cell == cell and product.cell == Cell(f"{arm}, product reviews", 2, 1e-2, 1)
    for run in (film, product):
        won, lost, margin = (np.array(run.more[name].split(), float) for name in ("chosen", "rejected", "margin"))
        assert len(margin) == 3 and np.allclose(margin, won - lost, atol=0.01)
        assert run.correct == tuple((margin > 0).tolist())
        assert (won > 0).all() or arm == "DPO", "alone, the chosen answers become likelier"
    assert film.more["aligned"] != film.more["instructed"]


@pytest.mark.parametrize("arm", ["as released", "GRPO", "shown the answers", "careless rule", "mended rule"])
def test_a_lesson_s_rewards_are_measured_sum_by_sum(lesson, monkeypatch, arm):
    module = importlib.import_module("topics.grpo")
    monkeypatch.setattr(module, "HELD", 3)
    trains = arm != "as released"
    (run,) = module.carry(None, module.GRID.arm(arm).recipe, Cell(arm, 2 * trains, 2e-3, 0))
    kept = {name: np.array(text.split(), float) for name, text in run.more.items() if name != "processor"}
    assert all(len(kept[name]) == 3 for name in kept if name != "rewards") and len(run.correct) == 3
    assert (kept["first"] >= kept["right"]).all() and (kept["eight"] >= kept["first"]).all()
    assert (run.parameters > 0) == trains
    # A model of chance is never right: groups of equal rewards teach nothing.
    assert (np.abs(kept["kl"]).max() > 1e-5) == (arm == "shown the answers")
    assert len(kept["rewards"]) == (0 if arm in ("as released", "shown the answers") else 2)


def test_a_remedy_is_run_and_judged_by_its_perplexity(monkeypatch):
    module = importlib.import_module("topics.forgetting")
    small = domains.small_decoder(512, d_model=32, layers=1, heads=2, device="cpu")
    monkeypatch.setattr(module, "pretrained", lambda *how: (small, None))
    monkeypatch.setattr(module, "BLOCKS", 2)
    module.start.cache_clear()
    arm = module.GRID.arm("L2-SP 0.01")
    (run,) = module.carry(None, arm.recipe, Cell(arm.name, 1, 3e-3, 0))
    assert module.GRID.judge(run) < 0 and float(run.more["film"]) > 1
    module.start.cache_clear()

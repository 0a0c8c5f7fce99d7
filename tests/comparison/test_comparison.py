r"""The comparison of all methods: on a tiny model and a task it can learn, stopped, gone on with, worked by hand."""

from __future__ import annotations

import functools
import inspect
import json
import random
import sys
from dataclasses import replace

import families
import pytest
import tiny
import tiny_text
import torch
from datasets import Dataset, DatasetDict
from typer.testing import CliRunner

from coursekit import cli, comparison, tasks
from coursekit.comparison import AROUND, CANDIDATES, Setting, bench, candidates, files, pace, rates, trial
from coursekit.errors import CourseError
from coursekit.methods import FishMask, FullFineTuning, LoRA, SHiRA, trainable
from coursekit.plots.hybrid import FAMILIES


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    r"""An encoder and a decoder in the layout of the hub."""
    found = {}
    # Wide and deep enough for the settings of the table: Compacter divides the width by 32, and that by 4.
    shape = {"hidden_size": 128, "num_hidden_layers": 4}
    for kind, model in (
        ("encoder", tiny.encoder("bert", **shape)),
        ("decoder", tiny.decoder("llama", **shape)),
    ):
        found[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(found[kind])
        tiny_text.tokenizer().save_pretrained(found[kind])
    return found


LINE_OF_A_RUN = {
    "trained": 100, "head": 10, "storage_bytes": 500, "predicted": {"peak": 8}, "step_seconds": 0.5, "step_ratio": 0.6,
    "memory": dict(weights=1, master=0, gradients=2, optimizer=3, activations=4, peak=9), "n": 20, "majority": 0.5,
}  # fmt: skip


def film(domain="film", labels="two"):
    r"""A task whose sentences hold "good" or "bad", in the place of the real one."""
    draw = random.Random(0)
    filler = tiny_text.WORDS[tiny_text.WORDS.index("plot") : tiny_text.WORDS.index("story") + 1]
    rows = []
    for _ in range(160):
        label = draw.randrange(2)
        words = draw.choices(filler, k=draw.randint(2, 8))
        words.insert(draw.randrange(len(words)), ("bad", "good")[label])
        rows.append({"text": " ".join(words), "rating": 2.0 * label - 1, "label": label})
    data = Dataset.from_list(rows)
    parts = {"train": range(100), "validation": range(100, 130), "test": range(130, 160)}
    splits = DatasetDict({name: data.select(part) for name, part in parts.items()})
    return tasks.Task(f"{domain}/{labels}", tasks.WORDS[labels], splits)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "load_task", film)
        patch.setattr(trial, "ROUNDS", 1)
        patch.setattr(bench, "LOOKED_AT", 24)
        # Model and task of a setting are loaded once for all tests.
        patch.setattr(sys.modules["coursekit.comparison.compare"], "Bench", functools.cache(bench.Bench))
        yield


@pytest.fixture(scope="module")
def benches(folders):
    r"""Both models with the task, loaded once."""
    return {
        kind: bench.Bench(Setting(model=str(folder), steps=1, batch_size=4, sentences=20, validation=10))
        for kind, folder in folders.items()
    }


@pytest.fixture
def no_training(monkeypatch):
    r"""Runs that cost nothing, for tests of what becomes of them: the accuracy is the seed's, and no other."""
    made = []

    def run(bench, candidate, seed, lr):
        made.append((candidate, seed))
        return LINE_OF_A_RUN | {"accuracy": 0.5 + 0.01 * seed}

    monkeypatch.setattr(trial, "run", run)
    return made


@pytest.fixture
def setting(folders):
    return Setting(model=str(folders["encoder"]), steps=2, batch_size=4, sentences=20, validation=10)


def compared(out, setting, *methods, seeds=(0,), **options):
    return comparison.compare(out, setting, methods or ("head", "lora"), seeds, progress=False, **options)


def texts(out):
    return out.read_text().splitlines()


@pytest.mark.parametrize("kind", ["qwen3", "modernbert"])
def test_a_folder_of_another_family_is_compared_as_well(kind, tmp_path):
    families.model(kind).save_pretrained(tmp_path / kind)
    tiny_text.tokenizer().save_pretrained(tmp_path / kind)
    setting = Setting(model=str(tmp_path / kind), steps=2, batch_size=4, sentences=20, validation=10)
    lines = compared(tmp_path / "runs.jsonl", setting, "full", "houlsby", "lora", "unipelt")
    runs = {line["method"]: line for line in lines if line["purpose"] == "run"}
    assert runs.keys() == {"full", "houlsby", "lora"}  # UniPELT is not defined for either, and left out
    assert all(0 <= run["accuracy"] <= 1 and run["memory"]["peak"] > 0 for run in runs.values())
    # No figure rather than a wrong one where activations are not modelled.
    assert all((run["predicted"] is None) == (kind == "modernbert") for run in runs.values())


# One run --------------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_took_and_what_it_reached(tmp_path, setting):
    (line,) = compared(tmp_path / "runs.jsonl", setting, "lora")
    assert json.loads(texts(tmp_path / "runs.jsonl")[0]) == line
    assert line["trained"] == 4 * 2 * 8 * (128 + 128)
    assert line["head"] == 2 * 128 + 2 and line["settings"] == repr(LoRA(r=8, alpha=16))
    assert line["predicted"] == line["memory"], "the memory model knows LoRA, to the byte"
    assert line["measured_on"]["rows"] == 4 and 3 <= line["measured_on"]["tokens"] <= 9
    four = 4 * (line["trained"] + line["head"])
    assert line["memory"]["gradients"] == four and line["memory"]["optimizer"] >= 2 * four
    assert four < line["storage_bytes"] < 3 * four
    assert line["n"] == 20 and line["accuracy"] * 20 == pytest.approx(round(line["accuracy"] * 20))
    assert line["low"] < line["accuracy"] < line["high"] or line["accuracy"] in (0, 1)
    assert line["step_seconds"] > 0 and line["step_ratio"] > 0
    assert line["versions"]["torch"] == torch.__version__ and line["device"]


def test_a_trained_task_keeps_no_network_that_only_training_needs(benches):
    line = trial.run(benches["encoder"], CANDIDATES["p-tuning"], seed=0, lr=1e-3)
    assert line["storage_bytes"] < 4 * (20 * 128 + line["head"]) + 4_000 < 4 * line["trained"]


@pytest.mark.parametrize("method", [FishMask(keep=50, score="random"), SHiRA(r=2)], ids=lambda m: m.kind)
def test_what_is_chosen_by_chance_is_another_choice_with_another_seed(method):
    def places(seed):
        chosen = method.masks(candidates.drawn(method, tiny.model("bert"), None, seed))
        return {(name, *at) for name, mask in chosen.items() for at in mask.nonzero().tolist()}

    assert places(1) == places(1) and len(places(1)) == len(places(2))
    assert len(places(1) & places(2)) < 0.5 * len(places(1))
    assert CANDIDATES["shira"].attach is candidates.drawn


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_runs_on_an_encoder(benches, name):
    r"""`run` itself asserts that the count is the closed form's."""
    line = trial.run(benches["encoder"], CANDIDATES[name], seed=0, lr=CANDIDATES[name].rate)
    assert (line["trained"] == 0) == (name == "head")
    assert line["n"] == 20 and line["memory"]["peak"] > line["memory"]["weights"] > 0
    assert line["predicted"]["gradients"] == line["memory"]["gradients"]  # what trains is exact
    # The rest is within what 128 numbers of width leave to rounding up and to small tensors.
    assert line["predicted"]["peak"] == pytest.approx(line["memory"]["peak"], rel=0.1)
    json.dumps(line, allow_nan=False)


def test_every_candidate_fits_a_decoder_or_says_why_not(benches):
    unfit = {}
    for name, candidate in CANDIDATES.items():
        try:
            model = trial.attach(benches["decoder"], candidate, seed=0)
        except trial.Unfit as error:
            unfit[name] = str(error)
        else:
            assert trainable(model) == candidate.method.count(model.config) > 0
    assert set(unfit) == {"head", "unipelt", "bitfit", "bitfit-query", "lora-bitfit"}  # it has no biases
    assert "no task head" in unfit["head"]
    assert "attach it to an encoder" in unfit["unipelt"]


def test_learning_shows(tmp_path, setting, monkeypatch):
    r"""More steps at a good rate: the words tell the class, so a model that learns them is right."""
    setting = Setting(**vars(setting) | {"steps": 30, "batch_size": 16, "sentences": 30})
    for name in ("full", "head"):
        monkeypatch.setitem(candidates.EVERY, name, replace(CANDIDATES[name], rate=3e-3))
    full, head = compared(tmp_path / "runs.jsonl", setting, "full", "head")
    assert (full["method"], head["method"]) == ("full", "head")
    assert full["accuracy"] > 0.9 > head["accuracy"] and full["loss"] < head["loss"]


def test_a_wrong_count_is_a_bug_and_said_so(tmp_path, setting, monkeypatch):
    monkeypatch.setattr(LoRA, "count", lambda self, config: 7)
    with pytest.raises(AssertionError, match="closed form says 7"):
        compared(tmp_path / "runs.jsonl", setting, "lora")
    assert not (tmp_path / "runs.jsonl").exists()


def test_the_ratio_is_ours_to_the_reference_and_they_take_turns(monkeypatch):
    r"""A clock by hand: the reference's steps take 2 s. Ours take 1 s when they go first and 4 s when second."""
    order = []

    def stepper(model, *_):
        def step():
            first = len(order) % 2 == 0
            order.append(model.name)
            return 2.0 if model.name == "reference" else (1.0 if first else 4.0)

        return step

    monkeypatch.setattr(pace, "_stepper", stepper)
    ours, reference = (
        FullFineTuning().attach(tiny.encoder("bert")),
        FullFineTuning().attach(tiny.encoder("bert")),
    )
    ours.name, reference.name = "ours", "reference"
    assert pace.ratios(ours, reference, {}, rounds=4) == [0.5, 2.0, 0.5, 2.0]
    assert order[2:] == ["ours", "reference", "reference", "ours"] * 2, "after one step each to warm up"


def test_steps_that_are_timed_leave_both_models_as_they_are():
    models = [FullFineTuning().attach(tiny.encoder("bert")), LoRA(r=2).attach(tiny.encoder("bert"))]
    before = [{key: value.clone() for key, value in model.state_dict().items()} for model in models]
    batch = tiny.batch(padded=True) | {"labels": torch.tensor([0, 1, 0])}
    found = pace.ratios(models[1], models[0], batch, rounds=3)
    assert len(found) == 3 and min(found) > 0
    for model, old in zip(models, before, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in model.state_dict().items())
        assert not model.training and all(p.grad is None for p in model.parameters())


def test_steps_that_are_timed_are_in_the_precision_that_fit_trains_in():
    r"""A head in fp32 on one side, autocast for a base in 16 bits on the other: neither is in force for both."""
    half = FullFineTuning().attach(tiny.encoder("bert").to(torch.bfloat16))
    single = LoRA(r=2).attach(tiny.encoder("bert"))
    seen = {}

    def remember(name):
        return lambda *_: seen.setdefault(name, set()).add(torch.is_autocast_enabled("cpu"))

    for name, model in (("half", half), ("single", single)):
        model.register_forward_pre_hook(remember(name))
    batch = tiny.batch(padded=True) | {"labels": torch.tensor([0, 1, 0])}
    pace.ratios(single, half, batch, rounds=2)
    assert seen == {"half": {True}, "single": {False}}


def test_a_run_whose_training_fails_is_said_and_the_others_go_on(tmp_path, setting, monkeypatch):
    monkeypatch.setitem(candidates.EVERY, "full", replace(CANDIDATES["full"], rate=1e38))
    notices = []
    lines = compared(tmp_path / "runs.jsonl", setting, "full", "head", seeds=(0, 1), say=notices.append)
    runs = [(line["method"], line["seed"], line["accuracy"] is None) for line in lines]
    assert runs == [("full", 0, True), ("head", 0, False), ("full", 1, True), ("head", 1, False)]
    assert [n.split(":")[0] for n in notices] == [
        f"full with seed {s} failed at the rate 1e+38" for s in (0, 1)
    ]
    assert [row.method for row in comparison.summary(lines)] == ["head"]


def test_no_method_that_fits_is_an_error(tmp_path, folders):
    setting = Setting(model=str(folders["decoder"]), steps=1, batch_size=4, sentences=20, validation=10)
    with pytest.raises(CourseError, match="none of these methods fits"):
        compared(tmp_path / "runs.jsonl", setting, "head", "unipelt")
    assert not (tmp_path / "runs.jsonl").exists()


# The file -------------------------------------------------------------------------------------------------------------


def test_what_is_in_the_file_is_not_made_again(tmp_path, setting, no_training):
    out, made = tmp_path / "deep" / "runs.jsonl", no_training
    first = compared(out, setting, "head")
    made.clear()
    lines = compared(out, setting, "head", "lora", seeds=(0, 1))
    assert made == [(CANDIDATES["lora"], 0), (CANDIDATES["head"], 1), (CANDIDATES["lora"], 1)]
    assert lines[:1] == first and lines == comparison.read(out) and len(texts(out)) == 4
    assert compared(out, setting, "head", "lora", seeds=(0, 1)) == lines and len(made) == 3


def test_the_same_run_gives_the_same_quality(tmp_path, setting):
    one, other = (compared(tmp_path / name, setting, "lora")[0] for name in ("a", "b"))
    for key in ("accuracy", "loss", "memory", "trained", "storage_bytes"):
        assert one[key] == other[key]


def test_ctrl_c_leaves_whole_lines_and_a_torn_one_is_made_again(tmp_path, setting, monkeypatch, no_training):
    out, notices = tmp_path / "runs.jsonl", []

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(
            trial, "run", lambda *a, run=trial.run: stop() if a[1] is CANDIDATES["lora"] else run(*a)
        )
        with pytest.raises(KeyboardInterrupt):
            compared(out, setting)
    (whole,) = texts(out)
    with out.open("a") as file:
        file.write('{"purpose": "run", "method": "lo')
    assert [line["method"] for line in comparison.read(out)] == ["head"]
    lines = compared(out, setting, say=notices.append)
    assert notices == [f"{out} ended in the middle of a run, which is made again"]
    assert texts(out)[0] == whole and [line["method"] for line in lines] == ["head", "lora"] == [
        line["method"] for line in comparison.read(out)
    ]


def test_two_comparisons_do_not_add_to_one_file(tmp_path, setting, monkeypatch, no_training):
    r"""The second starts while the first is at work, after a run that was torn: each run is in the file once."""
    out, run = tmp_path / "runs.jsonl", trial.run
    compared(out, setting, "head")
    with out.open("a") as file:
        file.write('{"purpose": "run", "method": "lo')

    def another_meanwhile(*arguments):
        with pytest.raises(CourseError, match="another run is writing to .*runs.jsonl: wait for it"):
            compared(out, setting, seeds=(0, 1))
        return run(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trial, "run", another_meanwhile)
        compared(out, setting, seeds=(0, 1))
    lines = comparison.read(out)
    assert len({(line["method"], line["seed"]) for line in lines}) == len(lines) == 4
    assert compared(out, setting, seeds=(0, 1)) == lines, "the file is free again"


def test_methods_choose_and_memory_is_measured_by_training_sentences(benches):
    r"""No sentence of the validation or the test split is looked at: here the first word says which split it is."""
    for kind, one in benches.items():
        words = {}
        for split in ("train", "validation", "test"):
            data = one.prepared.split(split)
            words[split] = {tuple(row["input_ids"]) for row in data}
        seen = [*one.looked_at(0), one.batch]
        pad = one.prepared.collate([one.prepared.split("train")[0]])["input_ids"][0]
        for batch in seen:
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                row = tuple(ids[mask.bool()].tolist())
                assert row in words["train"] and row not in words["test"] - words["train"], (kind, pad)
        assert sum(len(batch["input_ids"]) for batch in one.looked_at(0)) == bench.LOOKED_AT
        assert words["test"] - words["train"], "the splits differ"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 3}, "steps = 2, and now it is 3"),
        ({"batch_size": 5}, "batch_size = 4, and now it is 5"),
        ({"domain": "tweet"}, "task = 'film/two', and now it is 'tweet/two'"),
        ({"sentences": 30}, "sentences = 20, and now it is 30"),
    ],
)
def test_a_file_of_other_settings_is_refused(tmp_path, setting, change, says, no_training):
    out = tmp_path / "runs.jsonl"
    compared(out, setting, "head")
    before = out.read_bytes()
    with pytest.raises(CourseError, match=says):
        compared(out, Setting(**vars(setting) | change), "head")
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"settings": "LoRA(r=1)"}, r"runs of lora with settings = 'LoRA\(r=1\)', and now it is 'LoRA\(r=8"),
        ({"lr": 0.5}, "runs of lora with lr = 0.5, and now it is 0.01"),
        ({"device": "abacus"}, "device = 'abacus'"),
        ({"dtype": "float8"}, "dtype = 'float8'"),
        ({"threads": 99}, "threads = 99"),
        ({"versions": {"torch": "1.0"}}, "versions = {'torch': '1.0'}"),
    ],
)
def test_a_method_that_ran_otherwise_before_is_refused(tmp_path, setting, change, says, no_training):
    out = tmp_path / "runs.jsonl"
    (line,) = compared(out, setting, "lora")
    out.write_text(json.dumps(line | change) + "\n")
    with pytest.raises(CourseError, match=says):
        compared(out, setting, "lora", seeds=(1,))
    assert len(texts(out)) == 1


def test_a_file_of_something_else_is_left_as_it_is(tmp_path, setting, no_training):
    out = tmp_path / "notes.txt"
    out.write_text("my notes\nwithout an end")
    with pytest.raises(CourseError, match="line 1 of .*notes.txt is no run"):
        compared(out, setting)
    assert out.read_text() == "my notes\nwithout an end"
    with pytest.raises(CourseError, match="cannot read .*none.jsonl"):
        comparison.read(tmp_path / "none.jsonl")
    with pytest.raises(CourseError, match="cannot (read|write)"):
        files.Runs(tmp_path / "notes.txt" / "runs.jsonl")


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]", "a word", '{"purpose": "run"}\n{"a'])
def test_what_is_no_torn_run_is_never_cut_off(tmp_path, setting, text):
    out = tmp_path / "config.json"
    out.write_text(text)
    with pytest.raises(CourseError, match="line 1 of .*config.json is no run"):
        compared(out, setting)
    assert out.read_text() == text


def test_a_last_run_without_its_end_of_line_is_a_run(tmp_path, setting, no_training):
    out = tmp_path / "runs.jsonl"
    (first,) = compared(out, setting, "head")
    out.write_text(out.read_text().rstrip())
    assert comparison.read(out) == [first]
    lines = compared(out, setting, "head", seeds=(0, 1))
    assert lines[0] == first and lines == comparison.read(out) and len(texts(out)) == 2


def test_a_refused_file_keeps_its_torn_end(tmp_path, setting, no_training):
    out = tmp_path / "runs.jsonl"
    compared(out, setting, "head")
    with out.open("a") as file:
        file.write('{"purpose": "run", "meth')
    before = out.read_bytes()
    with pytest.raises(CourseError, match="steps = 2"):
        compared(out, Setting(**vars(setting) | {"steps": 7}), "head")
    assert out.read_bytes() == before


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    out = tmp_path / "runs.jsonl"
    runs = files.Runs(out)
    line = {"purpose": "run", "method": "head", "seed": 0, "lr": 0.1}
    runs.append(line)
    before = out.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as later:
        later.setattr(files.os, "fsync", full)
        with pytest.raises(CourseError, match="No space left"):
            runs.append(line | {"seed": 1})
    assert out.read_bytes() == before and len(runs.lines) == 1
    runs.append(line | {"seed": 1})
    assert [found["seed"] for found in comparison.read(out)] == [0, 1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"methods": ["lorra"]}, "unknown method 'lorra'; did you mean 'lora'"),
        ({"methods": []}, "name at least one method"),
        ({"seeds": ()}, "one seed"),
        ({"seeds": (-1,)}, "seed must be a non-negative integer of at most 4294967295; got -1"),
        ({"seeds": (2**80,)}, "of at most 4294967295; got"),
        ({"seeds": (1.5,)}, "seed must be"),
        ({"try_rates": [0.0]}, "learning rate must be a number above 0, such as 0.001; got 0.0"),
        ({"try_rates": [float("inf")]}, "learning rate must be a number above 0, such as 0.001; got inf"),
        ({"try_rates": []}, "no learning rate to choose from"),
        ({"try_rates": "about"}, "learning rates 'about'"),
        ({"setting": {"steps": 0}}, "steps must be a positive integer; got 0"),
        ({"setting": {"batch_size": 1.5}}, "batch_size must be a positive integer; got 1.5"),
        ({"setting": {"labels": "rating"}}, "unknown labels 'rating'; known: five, two"),
        ({"setting": {"model": "minilmm"}}, "unknown model 'minilmm'; did you mean 'minilm'"),
    ],
)
def test_bad_input_is_one_clear_line_before_anything_is_made(tmp_path, setting, options, says):
    setting = Setting(**vars(setting) | options.pop("setting", {}))
    with pytest.raises(CourseError, match=says) as error:
        comparison.compare(
            tmp_path / "runs.jsonl", setting, **({"methods": ["head"], "progress": False} | options)
        )
    assert "\n" not in str(error.value) and not (tmp_path / "runs.jsonl").exists()


# Learning rates -------------------------------------------------------------------------------------------------------


def test_rates_of_the_table_lie_on_the_grid():
    assert all(candidate.rate in rates.GRID for candidate in CANDIDATES.values())
    assert all(candidate.family in FAMILIES for candidate in CANDIDATES.values())
    assert rates.around(1e-3) == [3e-4, 1e-3, 3e-3] and rates.around(3e-2) == [1e-2, 3e-2, 1e-1]
    assert rates.around(rates.GRID[0]) == list(rates.GRID[:2])


@pytest.mark.parametrize(
    ("tried", "best", "beyond"),
    [
        ({1e-3: 0.5, 3e-3: 0.7, 1e-2: 0.6}, 3e-3, None),
        ({1e-3: 0.8, 3e-3: 0.7, 1e-2: 0.6}, 1e-3, 3e-4),
        ({1e-3: 0.5, 3e-3: 0.7, 1e-2: 0.8}, 1e-2, 3e-2),
        ({1e-3: 0.5, 3e-3: 0.7, 1e-2: 0.7}, 3e-3, None),  # of equals the lowest
        ({1e-3: 0.5, 3e-3: None, 1e-2: None}, 1e-3, 3e-4),  # two rates at which training failed
        ({rates.GRID[-1]: 0.9, rates.GRID[-2]: 0.5}, rates.GRID[-1], None),
        ({rates.GRID[0]: 0.9, rates.GRID[1]: 0.5}, rates.GRID[0], None),
    ],
)
def test_the_best_rate_lies_between_others(tried, best, beyond):
    assert rates.best(tried) == best and rates.beyond(tried) == beyond


def test_each_method_runs_at_the_rate_that_validation_chose(tmp_path, setting, monkeypatch, no_training):
    out, accuracy = tmp_path / "runs.jsonl", {3e-3: 0.5, 1e-2: 0.6, 3e-2: 0.7, 1e-1: 0.65}
    asked = []

    def validated(bench, candidate, seed, lr):
        asked.append((seed, lr))
        return {"accuracy": accuracy[lr]}

    monkeypatch.setattr(trial, "validated", validated)
    lines = compared(out, setting, "lora", seeds=(4, 5), try_rates=AROUND)
    assert asked == [(4, 3e-3), (4, 1e-2), (4, 3e-2), (4, 1e-1)]
    assert [(line["purpose"], line["seed"], line["lr"]) for line in lines[4:]] == [
        ("run", 4, 3e-2),
        ("run", 5, 3e-2),
    ]
    assert compared(out, setting, "lora", seeds=(4, 5), try_rates=AROUND) == lines and len(asked) == 4
    with pytest.raises(CourseError, match="lr = 0.03, and now it is 0.01"):
        compared(out, setting, "lora", seeds=(6,))


def test_a_rate_at_which_training_fails_is_not_chosen(tmp_path, setting):
    lines = compared(tmp_path / "runs.jsonl", setting, "full", try_rates=[1e-3, 1e38])
    assert [line["accuracy"] is None for line in lines] == [False, True, False]
    assert "not finite" in lines[1]["why"] or "loss is" in lines[1]["why"]
    assert lines[2]["purpose"] == "run" and lines[2]["lr"] == 1e-3
    assert "memory" not in lines[0] and lines[0]["n"] == 10, (
        "a sweep asks validation sentences and nothing else"
    )


# Rows -----------------------------------------------------------------------------------------------------------------

LINE = {
    "purpose": "run", "method": "lora", "family": "reparameterised", "settings": "LoRA(r=8)", "seed": 0, "lr": 0.01,
    "task": "film/two", "model": "minilm", "steps": 60, "batch_size": 16, "trained": 100, "head": 10,
    "storage_bytes": 500, "memory": dict(weights=1, master=0, gradients=2, optimizer=3, activations=4, peak=9),
    "predicted": {"peak": 8}, "step_seconds": 0.5, "step_ratio": 0.6, "accuracy": 0.7, "n": 500, "majority": 0.5,
    "device": "a card", "dtype": "float32", "threads": 1, "versions": {"torch": "2.13", "transformers": "5.24"},
}  # fmt: skip


def test_a_row_worked_by_hand():
    r"""0.7, 0.8, 0.9: mean 0.8, sample variance (0.01 + 0 + 0.01) / 2, so its root is 0.1."""
    lines = [
        LINE,
        LINE | {"seed": 1, "accuracy": 0.9, "step_seconds": 0.4, "step_ratio": 0.9},
        LINE | {"purpose": "sweep", "accuracy": 0.0},
        LINE | {"method": "head", "predicted": None},
        LINE | {"seed": 2, "accuracy": 0.8, "step_seconds": 0.7, "step_ratio": 0.5, "storage_bytes": 510},
    ]
    lora, head = comparison.summary(lines)
    assert (lora.method, lora.seeds, head.method, head.seeds) == ("lora", 3, "head", 1)
    assert (lora.accuracy, lora.sd) == pytest.approx((0.8, 0.1))
    assert (lora.lowest, lora.highest, lora.step_seconds, lora.step_ratio) == (0.7, 0.9, 0.5, 0.6)
    assert (lora.storage_bytes, lora.peak, lora.predicted_peak) == (510, 9, 8)
    assert head.sd is None and head.predicted_peak is None and head.accuracy == 0.7
    text = repr(comparison.table([lora, head]))
    assert "0.800" in text and "0.100" in text and "–" in text


def test_a_method_of_which_one_seed_failed_is_no_row():
    r"""A mean over the seeds that went well would flatter it."""
    failed = LINE | {"seed": 1, "accuracy": None, "why": "the loss is nan"}
    assert comparison.summary([LINE, failed]) == [] == comparison.summary([failed])
    (row,) = comparison.summary([failed, LINE, LINE | {"method": "head"}])
    assert row.method == "head"


def test_runs_that_differ_in_more_than_the_seed_are_no_row():
    with pytest.raises(CourseError, match="runs of lora differ in steps, 60 and 70"):
        comparison.summary([LINE, LINE | {"seed": 1, "steps": 70}])
    with pytest.raises(CourseError, match="runs of lora differ in threads"):
        comparison.summary([LINE, LINE | {"seed": 1, "threads": 2}])
    with pytest.raises(CourseError, match="two runs of lora with the same seed"):
        comparison.summary([LINE, LINE | {"seed": 1}, LINE])


def test_a_table_in_a_file_comes_back_as_it_was(tmp_path):
    made = comparison.summary(
        [LINE, LINE | {"seed": 1, "accuracy": 1 / 3}, LINE | {"method": "head", "predicted": None}]
    )
    assert comparison.from_csv(comparison.to_csv(made, tmp_path / "rows.csv")) == made
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for use in (comparison.from_csv, comparison.check_target, lambda path: comparison.to_csv(made, path)):
        with pytest.raises(CourseError, match="no table of a comparison"):
            use(tmp_path / "other.csv")
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"
    with pytest.raises(CourseError, match="cannot read"):
        comparison.from_csv(tmp_path / "none.csv")
    for nowhere in (tmp_path / "other.csv" / "rows.csv", tmp_path):
        with pytest.raises(CourseError, match="cannot (write|read)"):
            comparison.check_target(nowhere)
    comparison.check_target(tmp_path / "new" / "rows.csv")
    assert not (tmp_path / "new" / "rows.csv").exists()
    assert comparison.to_csv(made[:1], tmp_path / "rows.csv") == tmp_path / "rows.csv"  # ours is replaced
    assert comparison.from_csv(tmp_path / "rows.csv") == made[:1]


# The command ----------------------------------------------------------------------------------------------------------


def command(*arguments):
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])


def test_the_command_writes_lines_and_shows_a_table(tmp_path, folders, no_training):
    out, common = tmp_path / "runs.jsonl", ("--model", folders["encoder"], "--steps", 1, "--batch-size", 4)
    csv = tmp_path / "rows.csv"
    done = command("-o", out, "--csv", csv, "--methods", "head, lora", "--seeds", "0,1", *common)
    assert done.exit_code == 0, done.output
    assert [(line["method"], line["seed"]) for line in comparison.read(out)] == [
        ("head", 0), ("lora", 0), ("head", 1), ("lora", 1)
    ]  # fmt: skip
    assert comparison.from_csv(csv) == comparison.summary(comparison.read(out))
    head, lora = done.stdout.strip().splitlines()[-2:]
    assert head.split()[0] == "head" and lora.split()[0] == "lora" and "100" in lora
    for arguments, says in [
        (("--methods", "lorra"), "did you mean 'lora'"),
        (("--seeds", "0,one"), "'one' in seeds='0,one' is no int"),
        (("--rates", "fast"), "'fast' in rates='fast' is no float"),
        (("--batch-size", 5), "batch_size = 4, and now it is 5"),
        (("--rates", ","), "no learning rate to choose from"),
        (("--csv", out), "give the table a file of its own"),
        (("--csv", __file__), "no table of a comparison"),
        (("--csv", out / "rows.csv", "--seeds", "7"), "cannot write"),
        (("--labels", "rating"), "unknown labels 'rating'"),
    ]:
        done = command("-o", out, *common, "--methods", "head", *arguments)
        assert done.exit_code == 1 and says in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert len(comparison.read(out)) == 4, "nothing was trained before it was refused"


def test_the_command_and_the_library_have_the_same_defaults():
    given = {name: p.default for name, p in inspect.signature(cli.compare).parameters.items()}
    wanted = vars(Setting())
    assert given["task"] == wanted.pop("domain") and {key: given[key] for key in wanted} == wanted
    assert given["seeds"] == "0,1,2" and inspect.signature(comparison.compare).parameters[
        "seeds"
    ].default == (0, 1, 2)

r"""The comparison of all methods: on a tiny model and a task it can learn, stopped, gone on with, worked by hand."""

import functools
import inspect
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
from coursekit.comparison import AROUND, CANDIDATES, Setting, candidates, trial
from coursekit.errors import CourseError
from coursekit.experiments import bench
from coursekit.experiments.recipe import LADDER, Recipe
from coursekit.experiments.run import Unfit, attach, train
from coursekit.experiments.table import Cell, Run, Store, read_csv, written
from coursekit.methods import FishMask, FullFineTuning, LoRA, SHiRA, trainable
from coursekit.plots.hybrid import FAMILIES


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    r"""An encoder and a decoder in the layout of the hub."""
    found = {}
    # Wide and deep enough for the settings of the table: Compacter divides the width by 32, and that by 4.
    shape = {"hidden_size": 128, "num_hidden_layers": 4}
    for kind, model in (("encoder", tiny.encoder("bert", **shape)), ("decoder", tiny.decoder("llama", **shape))):
        found[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(found[kind])
        tiny_text.tokenizer().save_pretrained(found[kind])
    return found


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
def setting(folders):
    return Setting(model=str(folders["encoder"]), steps=2, batch_size=4, sentences=20, validation=10)


@pytest.fixture
def no_training(monkeypatch):
    r"""Runs that cost nothing, for tests of what becomes of them."""
    made = []

    def run(bench, recipe, cell, every, *, measure):
        made.append((cell.arm, cell.seed, cell.rate))
        more = {name: str(value) for name, value in (measure(None, None) | COSTS).items()}
        reached = 0.9 - abs(cell.rate - 3e-2)
        return [Run(cell, ((cell.steps, reached),), tuple(i < 10 + cell.seed for i in range(20)), 110, 1.0, more=more)]

    monkeypatch.setattr(trial, "costs", lambda bench, candidate, model, history: {})
    monkeypatch.setattr(sys.modules["coursekit.comparison.compare"], "train", run)
    return made


COSTS = {
    "trained": 100, "head": 10, "storage_bytes": 500, "weights": 1, "master": 0, "gradients": 2, "optimizer": 3,
    "activations": 4, "peak": 9, "predicted_peak": 8, "step_seconds": 0.5, "step_ratio": 0.6, "majority": 0.5,
}  # fmt: skip


def compared(out, setting, *methods, seeds=(0,), **options):
    options = {"say": lambda line: None} | options
    return comparison.compare(out, setting, methods or ("head", "lora"), seeds, **options)


def one_run(bench, name):
    r"""A run of a candidate at its own rate, with what it costs."""
    candidate = CANDIDATES[name]
    (run,) = train(
        bench, Recipe(candidate, bucket=False, autocast=False), Cell(name, 1, candidate.rate, 0), 1,
        measure=functools.partial(trial.costs, bench, candidate),
    )  # fmt: skip
    return run


@pytest.mark.parametrize("kind", ["qwen3", "modernbert"])
def test_a_folder_of_another_family_is_compared_as_well(kind, tmp_path):
    families.model(kind).save_pretrained(tmp_path / kind)
    tiny_text.tokenizer().save_pretrained(tmp_path / kind)
    setting = Setting(model=str(tmp_path / kind), steps=2, batch_size=4, sentences=20, validation=10)
    said = []
    runs = compared(tmp_path / "runs.csv", setting, "full", "houlsby", "lora", "unipelt", say=said.append)
    assert {run.cell.arm for run in runs} == {"full", "houlsby", "lora"}
    assert any(line.startswith("unipelt is left out: ") for line in said)
    # No figure rather than a wrong one where activations are not modelled.
    assert all((row.predicted_peak is None) == (kind == "modernbert") for row in comparison.summary(runs))


# One run --------------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_took_and_what_it_reached(tmp_path, setting):
    (run,) = compared(tmp_path / "runs.csv", setting, "lora")
    assert read_csv(tmp_path / "runs.csv") == Store(tmp_path / "runs.csv").runs()
    (row,) = comparison.summary([run])
    assert row.trained == 4 * 2 * 8 * (128 + 128) and row.head == 2 * 128 + 2
    assert row.settings == repr(LoRA(r=8, alpha=16))
    assert row.predicted_peak == row.peak, "the memory model knows LoRA, to the byte"
    four = 4 * (row.trained + row.head)
    assert row.gradients == four and row.optimizer >= 2 * four and four < row.storage_bytes < 3 * four
    assert len(run.correct) == len(run.margins) == row.sentences == 20 and run.loss > 0
    assert row.step_seconds > 0 and row.step_ratio > 0 and row.torch == torch.__version__ and row.device


def test_a_trained_task_keeps_no_network_that_only_training_needs(benches):
    row = one_run(benches["encoder"], "p-tuning").more
    trained, head = int(row["trained"]), int(row["head"])
    assert int(row["storage_bytes"]) < 4 * (20 * 128 + head) + 4_000 < 4 * trained


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
    r"""`costs` itself asserts that the count is the closed form's."""
    more = one_run(benches["encoder"], name).more
    assert (int(more["trained"]) == 0) == (name == "head")
    assert int(more["peak"]) > int(more["weights"]) > 0
    # Within what 128 numbers of width leave to rounding up and to small tensors.
    assert int(more["predicted_peak"]) == pytest.approx(int(more["peak"]), rel=0.1)


def test_every_candidate_fits_a_decoder_or_says_why_not(benches):
    unfit = {}
    for name, candidate in CANDIDATES.items():
        try:
            model = attach(benches["decoder"], candidate, seed=0)
        except Unfit as error:
            unfit[name] = str(error)
        else:
            assert trainable(model) == candidate.method.count(model.config) > 0
    assert set(unfit) == {"head", "unipelt", "bitfit", "bitfit-query", "lora-bitfit"}  # it has no biases
    assert "no task head" in unfit["head"]
    assert "attach it to an encoder" in unfit["unipelt"]


def test_a_wrong_count_is_a_bug_and_said_so(tmp_path, setting, monkeypatch):
    monkeypatch.setattr(LoRA, "count", lambda self, config: 7)
    with pytest.raises(AssertionError, match="closed form says 7"):
        compared(tmp_path / "runs.csv", setting, "lora")
    assert not (tmp_path / "runs.csv").exists()


def test_the_ratio_is_ours_to_the_reference(monkeypatch):
    monkeypatch.setattr(trial, "_stepper", lambda model, *_: lambda: model.seconds)
    monkeypatch.setattr(trial.timing, "_seconds", lambda step: step())
    ours, reference = (FullFineTuning().attach(tiny.encoder("bert")) for _ in range(2))
    ours.seconds, reference.seconds = 1.0, 4.0
    assert trial.step_ratio(ours, reference, {}, rounds=3) == 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_that_are_timed_leave_both_models_as_they_are(dtype):
    models = [FullFineTuning().attach(tiny.encoder("bert").to(dtype)), LoRA(r=2).attach(tiny.encoder("bert"))]
    before = [{key: value.clone() for key, value in model.state_dict().items()} for model in models]
    batch = tiny.batch(padded=True) | {"labels": torch.tensor([0, 1, 0])}
    assert trial.step_ratio(models[1], models[0], batch, rounds=3) > 0
    assert trial.step_ratio(models[0], models[0], batch, rounds=1) > 0, "beside itself"
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
    trial.step_ratio(single, half, batch, rounds=2)
    assert seen == {"half": {True}, "single": {False}}


def test_a_run_whose_training_fails_is_said_and_the_others_go_on(tmp_path, setting, monkeypatch):
    monkeypatch.setitem(candidates.EVERY, "full", replace(CANDIDATES["full"], rate=1e38))
    said = []
    runs = compared(tmp_path / "runs.csv", setting, "full", "head", seeds=(0, 1), say=said.append)
    assert [(run.cell.arm, bool(run.why)) for run in runs] == [("full", True)] * 2 + [("head", False)] * 2
    assert sum("failed: " in line for line in said) == 2
    assert [row.method for row in comparison.summary(runs)] == ["head"]


def test_no_method_that_fits_is_an_error(tmp_path, folders):
    setting = Setting(model=str(folders["decoder"]), steps=1, batch_size=4, sentences=20, validation=10)
    with pytest.raises(CourseError):
        compared(tmp_path / "runs.csv", setting, "head", "unipelt")
    assert not (tmp_path / "runs.csv").exists()


# The file -------------------------------------------------------------------------------------------------------------


def test_what_is_in_the_file_is_not_made_again(tmp_path, setting, no_training):
    out, made = tmp_path / "deep" / "runs.csv", no_training
    first = compared(out, setting, "head")
    made.clear()
    runs = compared(out, setting, "head", "lora", seeds=(0, 1))
    assert sorted(made) == [("head", 1, 0.3), ("lora", 0, 0.01), ("lora", 1, 0.01)]
    assert runs[0] == first[0] and compared(out, setting, "head", "lora", seeds=(0, 1)) == runs and len(made) == 3


def test_each_method_runs_at_the_rate_that_validation_chose(tmp_path, setting, no_training):
    runs = compared(tmp_path / "runs.csv", setting, "lora", seeds=(4, 5), try_rates=AROUND)
    (row,) = comparison.summary(runs)
    assert row.lr == 3e-2 and row.seeds == 2
    listed = compared(tmp_path / "more.csv", setting, "lora", seeds=(4, 5), try_rates=[0.5, 0.7])
    assert comparison.summary(listed)[0].lr == 0.5 and {run.cell.rate for run in listed} == {0.5, 0.7}


def test_the_same_run_gives_the_same_quality(tmp_path, setting):
    one, other = (compared(tmp_path / name, setting, "lora")[0] for name in ("a.csv", "b.csv"))
    assert (one.correct, one.margins, one.loss) == (other.correct, other.margins, other.loss)
    assert all(one.more[key] == other.more[key] for key in ("peak", "trained", "storage_bytes"))


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
        ({"domain": "tweet"}, "task = film/two, and now it is tweet/two"),
        ({"sentences": 30}, "tested = 20, and now it is 30"),
    ],
)
def test_a_file_of_other_settings_is_refused(tmp_path, setting, change, says, no_training):
    out = tmp_path / "runs.csv"
    compared(out, setting, "head")
    before = out.read_bytes()
    with pytest.raises(CourseError, match=says):
        compared(out, Setting(**vars(setting) | change), "head")
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("settings", "runs of lora with settings = x"),
        ("device", "device = x"),
        ("dtype", "dtype = x"),
        ("threads", "threads = x"),
        ("torch", "torch = x"),
    ],
)
def test_a_method_that_ran_otherwise_before_is_refused(tmp_path, setting, key, says, no_training):
    out = tmp_path / "runs.csv"
    (run,) = compared(out, setting, "lora")
    out.write_text(written([replace(run, more=dict(run.more) | {key: "x"})]))
    with pytest.raises(CourseError, match=says):
        compared(out, setting, "lora", seeds=(1,))
    assert len(read_csv(out)) == 1


def test_a_batch_that_no_memory_holds_is_refused(tmp_path, setting):
    with pytest.raises(CourseError, match=r"a step of 1000000000 sentences needs about .* GB, and .* GB are free"):
        compared(tmp_path / "runs.csv", Setting(**vars(setting) | {"batch_size": 10**9}), "head")


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
        comparison.compare(tmp_path / "runs.csv", setting, **({"methods": ["head"]} | options))
    assert "\n" not in str(error.value) and not (tmp_path / "runs.csv").exists()


# Rows -----------------------------------------------------------------------------------------------------------------

MORE = COSTS | {
    "family": "reparameterised", "settings": "LoRA(r=8)", "task": "film/two", "model": "minilm", "batch_size": 16,
    "device": "a card", "dtype": "float32", "threads": 1, "torch": "2.13", "transformers": "5.24",
}  # fmt: skip


def made(method="lora", seed=0, right=7, **more):
    kept = {name: str(value) for name, value in (MORE | more).items()}
    return Run(Cell(method, 60, 0.01, seed), ((60, 0.5),), tuple(i < right for i in range(10)), 110, 1.0, more=kept)


def test_a_row_worked_by_hand():
    r"""0.7, 0.8, 0.9: mean 0.8, sample variance (0.01 + 0 + 0.01) / 2, so its root is 0.1."""
    runs = [
        made(), made(seed=1, right=9, step_seconds=0.4, step_ratio=0.9),
        made(seed=2, right=8, step_seconds=0.7, step_ratio=0.5, storage_bytes=510),
        *(made("head", seed, predicted_peak="") for seed in range(3)),
    ]  # fmt: skip
    lora, head = comparison.summary(runs)
    assert (lora.method, lora.seeds, head.method, head.seeds) == ("lora", 3, "head", 3)
    assert (lora.accuracy, lora.sd) == pytest.approx((0.8, 0.1))
    assert (lora.lowest, lora.highest, lora.step_seconds, lora.step_ratio) == (0.7, 0.9, 0.5, 0.6)
    assert (lora.storage_bytes, lora.peak, lora.predicted_peak, lora.sentences) == (510, 9, 8, 10)
    assert head.sd == 0 and head.predicted_peak is None and head.accuracy == pytest.approx(0.7)
    text = repr(comparison.table([lora, head]))
    assert "0.800" in text and "0.100" in text


def test_a_method_of_which_one_seed_failed_is_no_row():
    r"""A mean over the seeds that went well would flatter it."""
    failed = replace(made(seed=1), correct=(), curve=(), why="the loss is nan")
    assert comparison.summary([made(), failed]) == []
    assert [row.method for row in comparison.summary([made(), failed, made("head"), made("head", 1)])] == ["head"]


def test_a_table_in_a_file_comes_back_as_it_was(tmp_path):
    rows = comparison.summary([made(right=3), made("head", predicted_peak="")])
    assert comparison.from_csv(comparison.to_csv(rows, tmp_path / "rows.csv")) == rows
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for use in (comparison.from_csv, comparison.check_target, lambda path: comparison.to_csv(rows, path)):
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
    assert comparison.to_csv(rows[:1], tmp_path / "rows.csv") == tmp_path / "rows.csv"  # ours is replaced
    assert comparison.from_csv(tmp_path / "rows.csv") == rows[:1]


# The command ----------------------------------------------------------------------------------------------------------


def command(*arguments):
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])


def test_the_command_writes_runs_and_shows_a_table(tmp_path, folders, no_training):
    out, common = tmp_path / "runs.csv", ("--model", folders["encoder"], "--steps", 1, "--batch-size", 4)
    csv = tmp_path / "rows.csv"
    done = command("-o", out, "--csv", csv, "--methods", "head, lora", "--seeds", "0,1", *common)
    assert done.exit_code == 0, done.output
    runs = read_csv(out)
    assert {(run.cell.arm, run.cell.seed) for run in runs} == {(a, s) for a in ("head", "lora") for s in (0, 1)}
    assert comparison.from_csv(csv) == comparison.summary(runs)
    head, lora = done.stdout.strip().splitlines()[-2:]
    assert head.split()[0] == "head" and lora.split()[0] == "lora" and "100" in lora
    torn = tmp_path / "torn.csv"
    torn.write_text(out.read_text().replace("\nlora,1", "\nlora,x", 1))
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
        (("-o", torn), "line 4 of"),
        (("-o", csv), "is no file of runs"),
    ]:
        done = command("-o", out, *common, "--methods", "head", *arguments)
        assert done.exit_code == 1 and says in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert read_csv(out) == runs, "nothing was trained before it was refused"


def test_the_command_and_the_library_have_the_same_defaults():
    given = {name: p.default for name, p in inspect.signature(cli.compare).parameters.items()}
    wanted = vars(Setting())
    assert given["task"] == wanted.pop("domain") and {key: given[key] for key in wanted} == wanted
    assert given["seeds"] == "0,1,2" and inspect.signature(comparison.compare).parameters["seeds"].default == (0, 1, 2)


def test_rates_of_the_table_lie_on_the_ladder():
    assert all(candidate.rate in LADDER and candidate.family in FAMILIES for candidate in CANDIDATES.values())

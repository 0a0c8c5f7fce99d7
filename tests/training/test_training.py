r"""The loop against a loop written by hand, and everything that must survive an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import tiny
import tiny_text
import torch
from hypothesis import given
from hypothesis import strategies as st

from coursekit.errors import CourseError
from coursekit.methods import FreezeAndReconfigure, IntrinsicSAID, LoRA, SelectRows
from coursekit.training import checkpoint as checkpoints
from coursekit.training import fit, rows_of_step, schedule, seed_everything

QUICK = dict(batch_size=4, lr=1e-2, progress=False)
DROPOUT = dict(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_equals_a_loop_written_by_hand(clip):
    data, steps = tiny_text.prepared("decoder"), 6
    ours, theirs = tiny.decoder("llama"), tiny.decoder("llama")
    history = fit(ours, data, steps=steps, warmup=0.5, clip=clip, weight_decay=0.1, seed=3, **QUICK)

    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1.0, weight_decay=0.1)
    theirs.train()
    for step in range(steps):
        rows = data.data["train"].select(rows_of_step(48, 4, 3, step)).to_list()
        optimizer.param_groups[0]["lr"] = 1e-2 * [1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3][step]
        loss = theirs(**data.collate(rows)).loss
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        assert history.loss[step] == pytest.approx(loss.item(), abs=1e-6)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), parameter, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "family"), [("encoder", "bert"), ("decoder", "llama"), ("decoder", "gpt2")])
def test_learns_and_leaves_the_model_as_it_found_it(kind, family):
    model = tiny.model(family)
    model.base_model.eval()
    before = {name: module.training for name, module in model.named_modules()}
    history = fit(model, tiny_text.prepared(kind), steps=80, **QUICK | dict(batch_size=16))
    assert sum(history.loss[-5:]) < 0.5 * sum(history.loss[:5])
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(p.grad is None for p in model.parameters())
    assert model.config.use_cache


def test_trains_only_what_requires_a_gradient():
    model = tiny.encoder("bert").requires_grad_(False)
    model.classifier.requires_grad_(True)
    before = weights(model)
    fit(model, tiny_text.prepared("encoder"), steps=2, **QUICK)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_history_reports_every_step():
    history = fit(tiny.encoder("bert"), tiny_text.prepared("encoder"), steps=5, **QUICK)
    table = history.to_dict()
    assert all(len(values) == 5 for values in table.values())
    assert history.step == [1, 2, 3, 4, 5]
    assert history.last() == {name: values[-1] for name, values in table.items()}
    assert all(values > 0 for values in history.seconds + history.tokens_per_second + history.peak_memory)
    assert "5 steps" in repr(history)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_accumulated_batches_count_as_one(kind):
    r"""Also where the parts have unequally many labelled tokens."""
    data = tiny_text.prepared(kind)
    if kind == "decoder":
        data.data["train"] = data.data["train"].map(lambda row: {"labels": row["input_ids"]})
    whole, parts = (tiny.model("bert" if kind == "encoder" else "llama") for _ in range(2))
    for model in (whole, parts):
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    settings = dict(steps=3, optimizer="sgd", lr=0.1, progress=False)
    one = fit(whole, data, batch_size=8, **settings)
    four = fit(parts, data, batch_size=2, accumulate=4, **settings)
    assert one.loss == pytest.approx(four.loss, rel=1e-5)
    for left, right in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)


def test_dropout_is_active_and_seeded():
    runs = [
        fit(tiny.encoder("bert", **DROPOUT), tiny_text.prepared("encoder"), steps=3, seed=seed, **QUICK).loss
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]
    still = fit(tiny.encoder("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
                tiny_text.prepared("encoder"), steps=3, seed=0, **QUICK)  # fmt: skip
    assert still.loss != runs[0]


def test_seed_everything_repeats_every_generator():
    import random

    import numpy as np

    draws = []
    for _ in range(2):
        seed_everything(5)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]


@given(st.integers(1, 400), st.floats(0, 1))
def test_schedule_rises_then_falls_and_never_stops(steps, warmup):
    factors = [schedule(step, steps, warmup) for step in range(steps)]
    top = factors.index(max(factors))
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**64), st.integers(1, 12))
def test_data_order_repeats_and_skips_nothing(rows, per_step, seed, steps):
    seen = [row for step in range(steps) for row in rows_of_step(rows, per_step, seed, step)]
    for start in range(0, len(seen) - rows + 1, rows):
        assert sorted(seen[start : start + rows]) == list(range(rows))
    assert rows_of_step(rows, per_step, seed, steps - 1) == seen[-per_step:]


class Interruption(Exception):
    pass


def stopping(model, at, how):
    r"""Make the forward pass of step `at` (1, 2, …) call `how`."""
    calls = iter(range(1, 1000))
    model.register_forward_pre_hook(lambda *_: how() if next(calls) == at else None)
    return model


def fail():
    raise Interruption


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", lambda p: torch.optim.Adagrad(p, lr=0.01)])
@pytest.mark.parametrize("stop", ["crash", "ctrl-c"])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, optimizer, stop):
    settings = dict(steps=9, optimizer=optimizer, checkpoint_every=3, accumulate=2, **QUICK)
    data = tiny_text.prepared("encoder")
    straight = tiny.encoder("bert", **DROPOUT)
    expected = fit(straight, data, **settings)

    halted = tiny.encoder("bert", **DROPOUT)
    if stop == "crash":
        with pytest.raises(Interruption):
            fit(stopping(halted, 10, fail), data, checkpoint=tmp_path, **settings)
        reached = 3
    else:
        with pytest.raises(KeyboardInterrupt):
            interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
            fit(stopping(halted, 10, interrupt), data, checkpoint=tmp_path, **settings)
        reached = 5
    assert [path.name for path in tmp_path.iterdir()] == [f"step-{reached:06d}"]

    seed_everything(99)  # whatever happened in between must not matter
    resumed = tiny.encoder("bert", seed=4, **DROPOUT)
    for name, parameter in resumed.named_parameters():
        parameter.requires_grad_(straight.get_parameter(name).requires_grad)
    history = fit(resumed, data, checkpoint=tmp_path, **settings)
    assert history.loss == expected.loss
    assert history.lr == expected.lr
    assert same(weights(resumed), weights(straight))

    again = tiny.encoder("bert", seed=5, **DROPOUT)
    assert fit(again, data, checkpoint=tmp_path, **settings).loss == expected.loss
    assert same(weights(again), weights(straight))


def test_interrupt_handler_is_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    fit(tiny.encoder("bert"), tiny_text.prepared("encoder"), steps=1, **QUICK)
    assert signal.getsignal(signal.SIGINT) is before


def test_checkpoint_holds_only_what_was_trained(tmp_path):
    from safetensors.torch import load_file

    model = tiny.encoder("bert").requires_grad_(False)
    model.classifier.requires_grad_(True)
    fit(model, tiny_text.prepared("encoder"), steps=2, checkpoint=tmp_path, **QUICK)
    assert set(load_file(checkpoints.newest(tmp_path) / "trained.safetensors")) == {
        "classifier.weight", "classifier.bias"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (dict(steps=5), "steps"),
        (dict(lr=0.5), "lr"),
        (dict(seed=1), "seed"),
        (dict(batch_size=2), "batch_size"),
        (dict(optimizer="sgd"), "optimizer"),
        (dict(weight_decay=0.3), "weight_decay"),
    ],
)
def test_checkpoint_of_another_run_is_refused(tmp_path, change, named):
    data = tiny_text.prepared("encoder")
    fit(tiny.encoder("bert"), data, steps=2, checkpoint=tmp_path, **QUICK)
    with pytest.raises(CourseError, match=f"another run: {named} was .* and is now"):
        fit(tiny.encoder("bert"), data, checkpoint=tmp_path, **(dict(steps=2) | QUICK | change))


def test_checkpoint_of_other_data_or_another_model_is_refused(tmp_path):
    data = tiny_text.prepared("encoder")
    fit(tiny.encoder("bert"), data, steps=2, checkpoint=tmp_path, **QUICK)
    with pytest.raises(CourseError, match="another run: data was"):
        fit(
            tiny.encoder("bert"), tiny_text.prepared("encoder", seed=1), steps=2, checkpoint=tmp_path, **QUICK
        )
    with pytest.raises(CourseError, match=r"another model or method: the shape of classifier.bias is \(2,\)"):
        fit(tiny.encoder("bert", num_labels=3), data, steps=2, checkpoint=tmp_path, **QUICK)


@pytest.mark.parametrize("file", ["state.json", "trained.safetensors", "optimizer.safetensors"])
def test_damaged_checkpoint_is_one_clear_line(tmp_path, file):
    data = tiny_text.prepared("encoder")
    fit(tiny.encoder("bert"), data, steps=2, checkpoint=tmp_path, **QUICK)
    damaged = checkpoints.newest(tmp_path) / file
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(CourseError, match="cannot be read"):
        fit(tiny.encoder("bert"), data, steps=2, checkpoint=tmp_path, **QUICK)


def test_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    data, model = tiny_text.prepared("encoder"), tiny.encoder("bert")
    written = checkpoints.save_file

    def full(tensors, file):
        if "step-000004" in str(file):
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        written(tensors, file)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CourseError, match="cannot write the checkpoint.*No space left on device"):
        fit(model, data, steps=6, checkpoint=tmp_path, checkpoint_every=2, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]
    monkeypatch.undo()
    resumed, straight = tiny.encoder("bert"), tiny.encoder("bert")
    history = fit(resumed, data, steps=6, checkpoint=tmp_path, checkpoint_every=2, **QUICK)
    assert history.loss == fit(straight, data, steps=6, **QUICK).loss


@pytest.mark.parametrize("where", ["forward", "gradient"])
def test_loss_that_is_not_finite_stops_before_the_update(tmp_path, where):
    data, model = tiny_text.prepared("encoder"), tiny.encoder("bert")

    def poison(*_):
        parameter = model.classifier.weight
        if where == "forward":
            parameter.data[0, 0] = float("nan")
        else:
            parameter.register_hook(lambda gradient: gradient * float("inf"))

    stopping(model, 4, poison)
    with pytest.raises(CourseError) as error:
        fit(model, data, steps=8, checkpoint=tmp_path, **QUICK)
    message = str(error.value)
    assert "\n" not in message
    for part in ("step 4", "learning rate", "try", "step 3", str(tmp_path)):
        assert part in message
    if where == "gradient":
        resumed, straight = tiny.encoder("bert"), tiny.encoder("bert")
        assert (
            fit(resumed, data, steps=8, checkpoint=tmp_path, **QUICK).loss
            == fit(straight, data, steps=8, **QUICK).loss
        )
        assert same(weights(resumed), weights(straight))


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("frozen", [False, True])
def test_activation_checkpointing_changes_memory_not_numbers(family, frozen):
    def run(flag):
        model = tiny.model(family)
        norms = [module for module in model.modules() if "Norm" in type(module).__name__]
        if frozen:
            model.requires_grad_(False)
            norms[0].requires_grad_(True)
        calls = []
        norms[-1 if family in tiny.ENCODERS else -2].register_forward_pre_hook(lambda *_: calls.append(1))
        kind = "encoder" if family in tiny.ENCODERS else "decoder"
        history = fit(model, tiny_text.prepared(kind), steps=3, activation_checkpointing=flag, **QUICK)
        assert not model.is_activation_checkpointing
        embedded = model.get_input_embeddings()(torch.tensor([[1]]))
        assert embedded.requires_grad is not frozen
        return history.loss, weights(model), len(calls)

    (plain, plain_weights, once), (recomputed, weights_after, twice) = run(False), run(True)
    assert recomputed == pytest.approx(plain, rel=1e-6)
    for name in plain_weights:
        torch.testing.assert_close(plain_weights[name], weights_after[name], atol=1e-6, rtol=1e-5)
    assert twice == 2 * once == 6


def test_half_precision_trains_master_weights_and_returns():
    dtype = torch.bfloat16
    model, data = tiny.encoder("bert", dtype=dtype), tiny_text.prepared("encoder")
    seen = set()
    model.register_forward_pre_hook(lambda module, *_: seen.update(p.dtype for p in module.parameters()))
    before = weights(model)
    fit(model, data, steps=20, **(QUICK | dict(lr=1e-4)))
    assert seen == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert not same(weights(model), before)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("frozen", [False, True])
def test_float16_is_trained_with_a_scaled_loss_and_resumes(tmp_path, device, frozen):
    r"""With a float32 head on a frozen float16 base too, as on a card that has no bfloat16."""

    def model():
        built = tiny.encoder("bert", dtype=torch.float16, **DROPOUT).to(device)
        if frozen:
            built.requires_grad_(False)
            built.classifier.float().requires_grad_(True)
        return built

    data, settings = tiny_text.prepared("encoder"), dict(steps=6, checkpoint_every=2, **QUICK)
    scales = []
    straight = model()
    straight.classifier.weight.register_hook(lambda gradient: scales.append(gradient.abs().max().item()))
    history = fit(straight, data, **settings)
    assert {p.dtype for p in straight.base_model.parameters()} == {torch.float16}
    assert straight.classifier.weight.dtype == (torch.float32 if frozen else torch.float16)
    # 2¹⁶ is the scaler's first choice: the gradients inside are far above the ones that are reported.
    assert scales[0] > 1000 * history.grad_norm[0]

    halted = model()
    with pytest.raises(Interruption):
        fit(stopping(halted, 4, fail), data, checkpoint=tmp_path, **settings)
    resumed = model()
    assert fit(resumed, data, checkpoint=tmp_path, **settings).loss == history.loss
    assert same(weights(resumed), weights(straight))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumes_exactly_and_counts_memory_on_a_gpu(tmp_path, dtype):
    data, settings = tiny_text.prepared("encoder"), dict(steps=6, checkpoint_every=2, **QUICK)
    straight, halted, resumed = (tiny.encoder("bert", dtype=dtype, **DROPOUT).cuda() for _ in range(3))
    history = fit(straight, data, **settings)
    assert 0 < history.peak_memory[-1] <= torch.cuda.max_memory_allocated()
    with pytest.raises(Interruption):
        fit(stopping(halted, 4, fail), data, checkpoint=tmp_path, **settings)
    assert fit(resumed, data, checkpoint=tmp_path, **settings).loss == pytest.approx(history.loss, rel=1e-3)


def test_float32_adapter_on_a_half_precision_base_stays_as_it_is():
    model, data = (
        tiny.encoder("bert", dtype=torch.bfloat16).requires_grad_(False),
        tiny_text.prepared("encoder"),
    )
    model.classifier.float().requires_grad_(True)
    model.classifier.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    fit(model, data, steps=2, **QUICK)
    assert model.classifier.weight.dtype == torch.float32
    assert model.base_model.encoder.layer[0].output.dense.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(steps=0), "steps=0: it must be above 0"),
        (dict(batch_size=-1), "batch_size=-1"),
        (dict(lr=0.0), "lr=0.0"),
        (dict(lr=float("nan")), "lr=nan"),
        (dict(warmup=10), "warmup=10: it is a share"),
        (dict(optimizer="adamv"), "unknown optimizer 'adamv'; did you mean 'adamw'"),
        (dict(split="trian"), "unknown split 'trian'; did you mean 'train'"),
        (dict(checkpoint_every=0), "checkpoint_every=0"),
        (dict(accumulate=0), "accumulate=0"),
    ],
)
def test_bad_settings_are_one_clear_line(change, message):
    with pytest.raises(CourseError) as error:
        fit(tiny.encoder("bert"), tiny_text.prepared("encoder"), **(QUICK | change))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_to_train_is_an_error():
    with pytest.raises(CourseError, match="nothing to train"):
        fit(tiny.encoder("bert").requires_grad_(False), tiny_text.prepared("encoder"), **QUICK)


def test_runs_outside_the_main_thread():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(fit, tiny.encoder("bert"), tiny_text.prepared("encoder"), steps=2, **QUICK)
    assert len(run.result()) == 2


SCRIPT = textwrap.dedent("""
    import json, os, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import tiny, tiny_text, torch
    from coursekit.training import fit
    model = tiny.encoder("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    history = fit(model, tiny_text.prepared("encoder"), steps=4, batch_size={batch}, lr=0.1, optimizer="sgd",
                  progress=False, checkpoint={folder!r})
    total = sum(p.double().abs().sum().item() for p in model.parameters())
    Path({out!r} + "rank" + os.environ["RANK"]).write_text(json.dumps([history.loss, total]))
""")


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, root):
    import json

    results = {}
    for processes, batch in ((1, 8), (2, 4)):
        script, out = tmp_path / f"train{processes}.py", tmp_path / f"{processes}-"
        folder = str(tmp_path / f"run{processes}")
        script.write_text(SCRIPT.format(tests=str(root / "tests"), batch=batch, folder=folder, out=str(out)))
        launch = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
        ]
        cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(
            [*launch, str(script)], capture_output=True, text=True, timeout=100, cwd=root, env=cpu
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results[processes] = [
            json.loads(path.read_text()) for path in sorted(tmp_path.glob(f"{processes}-rank*"))
        ]
    assert len(results[2]) == 2
    (loss, total), *others = results[1] + results[2]
    for other_loss, other_total in others:
        assert other_loss == pytest.approx(loss, rel=1e-4)
        assert other_total == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(("one", "other"), [
    (SelectRows(rows=(0, 1)), SelectRows(rows=(5, 6))),
    (IntrinsicSAID(d=40, seed=0), IntrinsicSAID(d=40, seed=1)),
    (FreezeAndReconfigure(nodes=((0, 1),)), FreezeAndReconfigure(nodes=((5, 6),))),
    (LoRA(r=2, alpha=4), LoRA(r=2, alpha=32)),
])  # fmt: skip
def test_a_run_does_not_go_on_with_numbers_that_belong_elsewhere(one, other, tmp_path):
    r"""The shapes are the same, so nothing else would notice."""
    data, settings = tiny_text.prepared("encoder"), dict(steps=2, **QUICK)
    fit(one.attach(tiny.model("bert")), data, checkpoint=tmp_path, **settings)
    assert len(fit(one.attach(tiny.model("bert")), data, checkpoint=tmp_path, **settings)) == 2
    with pytest.raises(CourseError, match="is of another run: methods was"):
        fit(other.attach(tiny.model("bert")), data, checkpoint=tmp_path, **settings)


# Another objective --------------------------------------------------------------------------------------------------


class Doubled:
    r"""Twice the model's own loss, which is noted."""

    def __init__(self, factor: float = 2.0, name: str = "own") -> None:
        self.factor, self.name = factor, name

    def __call__(self, model, batch):
        loss = model(**batch).loss
        return self.factor * loss, {self.name: loss}

    def __repr__(self) -> str:
        return f"Doubled({self.factor})"


def test_an_objective_takes_the_place_of_the_loss_and_is_noted():
    data = tiny_text.prepared("decoder")
    own = fit(tiny.decoder(), data, steps=4, **(QUICK | dict(optimizer="sgd", clip=None)))
    history = fit(
        tiny.decoder(), data, steps=4, objective=Doubled(),
        **(QUICK | dict(optimizer="sgd", clip=None, lr=QUICK["lr"] / 2)),
    )  # fmt: skip
    assert history.noted["own"] == pytest.approx(own.loss, rel=1e-5)
    assert history.loss == pytest.approx([2 * loss for loss in own.loss], rel=1e-5)
    assert (
        history.to_dict()["own"] == history.noted["own"] and history.last()["own"] == history.noted["own"][-1]
    )
    plain = fit(tiny.decoder(), data, steps=4, objective=lambda model, batch: model(**batch).loss, **QUICK)
    assert plain.loss == fit(tiny.decoder(), data, steps=4, **QUICK).loss and not plain.noted


def test_what_is_noted_of_accumulated_batches_is_their_mean():
    data = tiny_text.prepared("decoder")
    one = fit(tiny.decoder(), data, steps=2, objective=Doubled(), **(QUICK | dict(batch_size=8)))
    two = fit(
        tiny.decoder(), data, steps=2, objective=Doubled(), **(QUICK | dict(batch_size=4, accumulate=2))
    )
    assert two.noted["own"] == pytest.approx(one.noted["own"], rel=1e-5)


def test_a_run_goes_on_with_its_objective_only(tmp_path):
    data = tiny_text.prepared("decoder")
    whole = fit(tiny.decoder(), data, steps=4, objective=Doubled(), **QUICK)
    model = tiny.decoder()
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, steps=4, objective=_Interrupted(2), checkpoint=tmp_path, **QUICK)
    with pytest.raises(CourseError, match="another run: objective was Doubled.2.0. and is now Doubled.3.0."):
        fit(tiny.decoder(), data, steps=4, objective=Doubled(3.0), checkpoint=tmp_path, **QUICK)
    with pytest.raises(CourseError, match="another run: objective was Doubled.2.0. and is now None"):
        fit(tiny.decoder(), data, steps=4, checkpoint=tmp_path, **QUICK)
    resumed = fit(tiny.decoder(), data, steps=4, objective=Doubled(), checkpoint=tmp_path, **QUICK)
    assert (resumed.loss, resumed.noted) == (whole.loss, whole.noted)


class _Interrupted(Doubled):
    r"""Ctrl-C in the middle of a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def __call__(self, model, batch):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().__call__(model, batch)


def test_an_objective_cannot_note_what_every_history_has():
    with pytest.raises(CourseError, match="cannot note 'loss'"):
        fit(tiny.decoder(), tiny_text.prepared("decoder"), steps=1, objective=Doubled(name="loss"), **QUICK)

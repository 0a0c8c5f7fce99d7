r"""The loop against a loop written by hand, and everything that must survive an interruption."""

import copy
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import psutil
import pytest
import tiny
import tiny_text
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from coursekit.errors import CourseError
from coursekit.methods import FreezeAndReconfigure, FullFineTuning, IntrinsicSAID, LoRA, SelectRows, TopLayers
from coursekit.qlora import quantize_model
from coursekit.training import checkpoint as checkpoints
from coursekit.training import fit, identity, loop, rows_of_step, schedule, seed_everything
from coursekit.training.order import Order

#: `fit` without the tests' type checker, which would be faster than its own words for a wrong type.
unchecked = inspect.unwrap(fit)
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


def test_tokens_per_second_are_of_text_and_not_of_padding():
    data, seen = tiny_text.prepared("encoder"), []
    model = tiny.encoder("bert")
    model.register_forward_pre_hook(lambda _, args, given: seen.append(given["attention_mask"]), with_kwargs=True)
    history = fit(model, data, steps=3, **QUICK)
    for mask, rate, seconds in zip(seen, history.tokens_per_second, history.seconds, strict=True):
        assert mask.sum() < mask.numel(), "there is padding to leave out"
        assert rate * seconds == pytest.approx(int(mask.sum()))


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
    # A mask of its own in every step: with weights that stay as they are, and one batch, only the mask differs.
    model, masks = tiny.encoder("bert", **DROPOUT), []
    drop = next(m for m in model.modules() if isinstance(m, torch.nn.Dropout))
    drop.register_forward_hook(lambda _, inputs, output: masks.append(output == 0))
    fit(model, tiny_text.prepared("encoder", rows=4), steps=3, **QUICK)
    shared = [mask[:, :3] for mask in masks]
    assert not torch.equal(shared[0], shared[1]) and not torch.equal(shared[1], shared[2])
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


def test_epochs_and_seeds_come_in_orders_of_their_own():
    epochs = [tuple(rows_of_step(24, 24, seed, step)) for seed in (0, 1) for step in range(3)]
    assert len(set(epochs)) == 6
    assert all(sorted(epoch) == list(range(24)) != list(epoch) for epoch in epochs)


def test_processes_draw_dropout_of_their_own(monkeypatch):
    r"""Seeds of (seed, step, rank): another one in each of two processes."""
    seeds = []
    monkeypatch.setattr(loop, "seed_everything", seeds.append)
    monkeypatch.setattr(loop.Update, "rank", property(lambda self: self._rank, lambda self, _: None), raising=False)
    for rank in (0, 1):
        monkeypatch.setattr(loop.Update, "_rank", rank, raising=False)
        fit(tiny.encoder("bert"), tiny_text.prepared("encoder"), steps=2, **QUICK)
    assert len(set(seeds)) == 4


# Batches by length --------------------------------------------------------------------------------------------------


@given(st.integers(1, 90), st.integers(1, 7), st.integers(1, 3), st.integers(0, 2**64), st.integers(1, 12))
def test_batches_by_length_skip_nothing_either(rows, batch, accumulate, seed, steps):
    lengths = torch.arange(rows) * 7 % 13
    order = Order(rows, batch * accumulate, seed, lengths=lengths, batch=batch)
    seen = [row for step in range(steps) for row in order.of_step(step)]
    for start in range(0, len(seen) - rows + 1, rows):
        assert sorted(seen[start : start + rows]) == list(range(rows))
    again = Order(rows, batch * accumulate, seed, lengths=lengths, batch=batch)
    assert again.of_step(steps - 1) == seen[-batch * accumulate :], "a function of seed and step"


def test_batches_by_length_hold_neighbours_in_an_order_of_their_own():
    lengths = torch.randint(3, 60, (800,), generator=torch.Generator().manual_seed(0))
    plain, order = Order(800, 16, 0), Order(800, 16, 0, lengths=lengths, batch=16)
    padded = [sum(16 * int(lengths[o.of_step(i)].max()) for i in range(50)) for o in (plain, order)]
    text = int(lengths.sum())
    assert padded[0] > 1.7 * text and padded[1] < 1.05 * text
    longest = [int(lengths[order.of_step(i)].max()) for i in range(50)]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)
    epochs = [{frozenset(order.of_step(e * 50 + i)) for i in range(50)} for e in range(2)]
    assert len(epochs[0] & epochs[1]) < 5, "other batches in the next epoch"
    other = Order(800, 16, 1, lengths=lengths, batch=16)
    assert len(epochs[0] & {frozenset(other.of_step(i)) for i in range(50)}) < 5
    assert len({tuple(order.of_step(i)) for i in range(50)}) == 50


def test_where_rows_do_not_fill_the_batches_one_batch_an_epoch_is_mixed():
    r"""50 rows in batches of 8: the batch across the end of an epoch takes what is left over from both."""
    lengths = torch.arange(50)
    order = Order(50, 8, 0, lengths=lengths, batch=8)
    spread = [int(lengths[order.of_step(i)].max() - lengths[order.of_step(i)].min()) for i in range(25)]
    assert sum(width > 16 for width in spread) <= 4 and len(spread) == 25


@pytest.mark.parametrize("bucket", [None, False, True], ids=["by default", "mixed", "by length"])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_batches_are_of_one_length_where_asked_for(kind, bucket):
    asked = {} if bucket is None else {"bucket": bucket}
    data, seen = tiny_text.prepared(kind), []
    model = tiny.model("bert" if kind == "encoder" else "llama")
    model.register_forward_pre_hook(lambda _, args, given: seen.append(given["input_ids"]), with_kwargs=True)
    fit(model, data, steps=3, seed=3, **asked, **QUICK)
    lengths = torch.tensor([len(ids) for ids in data.data["train"]["input_ids"]])
    assert data.lengths("train") == lengths.tolist()
    order = Order(48, 4, 3, lengths=lengths if bucket else None, batch=4)
    for step, ids in enumerate(seen):
        assert torch.equal(ids, data.collate(data.data["train"].select(order.of_step(step)).to_list())["input_ids"])


class Interruption(Exception):
    pass


def stopping(model, at, how):
    r"""Make the forward pass of step `at` (1, 2, …) call `how`."""
    calls = iter(range(1, 1000))
    model.register_forward_pre_hook(lambda *_: how() if next(calls) == at else None)
    return model


def fail():
    raise Interruption


@pytest.mark.parametrize(("optimizer", "stop"), [
    ("adamw", "crash"), ("sgd", "ctrl-c"), (lambda p: torch.optim.Adagrad(p, lr=0.01), "crash"),
    ("adamw8bit", "ctrl-c"), ("paged_adamw", "crash"),
])  # fmt: skip
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, optimizer, stop):
    settings = dict(steps=9, optimizer=optimizer, checkpoint_every=3, accumulate=2, **QUICK)
    data = tiny_text.prepared("encoder")
    large = DROPOUT | dict(hidden_size=64)  # so that the embedding has 8-bit states
    straight = tiny.encoder("bert", **large)
    expected = fit(straight, data, **settings)

    halted = tiny.encoder("bert", **large)
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
    resumed = tiny.encoder("bert", **large)
    history = fit(resumed, data, checkpoint=tmp_path, **settings)
    assert history.loss == expected.loss
    assert history.lr == expected.lr
    assert same(weights(resumed), weights(straight))

    assert fit(resumed, data, checkpoint=tmp_path, **settings).loss == expected.loss, "in the same process, too"
    assert same(weights(resumed), weights(straight))


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


def begun(folder, data=None, make=lambda: tiny.encoder("bert"), **change):
    r"""The history of a run of two steps with its checkpoint in `folder`."""
    data = data or tiny_text.prepared("encoder")
    return fit(make(), data, checkpoint=folder, **(dict(steps=2) | QUICK | change))


def refused(folder, message, data=None, make=lambda: tiny.encoder("bert", seed=5), **change):
    r"""The checkpoint in `folder` is refused in one line, and the model is as it was."""
    model = make()
    before = weights(model)
    with pytest.raises(CourseError, match=message) as error:
        begun(folder, data, lambda: model, **change)
    assert "\n" not in str(error.value) and same(weights(model), before)


def encoder(method=None, **settings):
    r"""Makes a BERT, with `method`: its start is the same every time."""

    def make():
        torch.manual_seed(0)
        model = tiny.encoder("bert", **settings)
        return method.attach(model) if method else model

    return make


def decoder(method=None, seed=0):
    return lambda: method.attach(tiny.decoder("llama", seed=seed)) if method else tiny.decoder("llama", seed=seed)


def adam(beta):
    return lambda parameters: torch.optim.AdamW(parameters, lr=0.01, betas=(0.9, beta))


class Doubled:
    r"""Twice the model's own loss, which is noted."""

    def __init__(self, factor: float = 2.0, name: str = "own") -> None:
        self.factor, self.name = factor, name

    def __call__(self, model, batch):
        loss = model(**batch).loss
        return self.factor * loss, {self.name: loss}

    def __repr__(self) -> str:
        return f"Doubled({self.factor})"


QUERY, DECODED = LoRA(r=2, alpha=4, targets=("query",)), dict(data=tiny_text.prepared("decoder"))
#: What a run was, what it is now, and the message.
OTHER_RUNS = [
    ({}, dict(steps=5), "another run: steps was 2 and is now 5"),
    ({}, dict(lr=0.5), r"another run: lr was \[0.01\] and is now \[0.5\]"),
    ({}, dict(seed=1), "another run: seed was 0 and is now 1"),
    ({}, dict(batch_size=2), "another run: batch_size was 4 and is now 2"),
    ({}, dict(bucket=True), "another run: bucket was False and is now True"),
    ({}, dict(weight_decay=0.3), "another run: weight_decay was"),
    ({}, dict(optimizer="sgd"), "another run: optimizer was AdamW and is now SGD"),
    (dict(optimizer=adam(0.95)), dict(optimizer=adam(0.999)), "another run: optimizer settings was .*0.95"),
    ({}, dict(data=tiny_text.prepared("encoder", seed=1)), "another run: data was"),
    *((dict(objective=Doubled()), dict(objective=other), f"another run: objective was Doubled.2.0. and is now {told}")
      for other, told in ((Doubled(3.0), "Doubled.3.0."), (None, "None"))),
    ({}, dict(make=encoder(num_labels=3)), r"another model or method: the shape of classifier.bias is \(2,\)"),
    ({}, dict(make=encoder(dtype=torch.float64)), "the dtype of .* is torch.float32 there and torch.float64 here"),
    ({}, dict(make=encoder(attention_probs_dropout_prob=0.3)), "another run: model settings was"),
    ({}, dict(make=encoder(hidden_dropout_prob=0.3)), "another run: model settings was"),
    (dict(make=encoder(QUERY)), dict(make=encoder(QUERY, seed=1)), "frozen weights was #.* and is now #"),
    (dict(make=encoder(QUERY)), dict(make=encoder(QUERY, dtype=torch.bfloat16)), "frozen weights was #"),
    # Everything trains, so the checkpoint would put the first base's weights into the second.
    *((DECODED | dict(make=decoder(method)), DECODED | dict(make=decoder(method, seed=1)),
       "another run: .*weights.* was #.* and is now #") for method in (None, FullFineTuning(), TopLayers(k=1))),
    # The shapes are the same, so nothing else would notice.
    *((dict(make=encoder(one)), dict(make=encoder(other)), "is of another run: (methods|frozen weights) was")
      for one, other in (
        (SelectRows(rows=(0, 1)), SelectRows(rows=(5, 6))),
        (IntrinsicSAID(d=40, seed=0), IntrinsicSAID(d=40, seed=1)),
        (FreezeAndReconfigure(nodes=((0, 1),)), FreezeAndReconfigure(nodes=((5, 6),))),
        (LoRA(r=2, alpha=4), LoRA(r=2, alpha=32)))),
]  # fmt: skip


@pytest.mark.parametrize(("first", "then", "message"), OTHER_RUNS)
def test_a_run_goes_on_in_itself_and_in_no_other(tmp_path, first, then, message):
    history = begun(tmp_path, **first)
    refused(tmp_path, message, **(dict(make=encoder()) | first | then))
    assert begun(tmp_path, **first).loss == history.loss


def test_what_trains_may_stand_anywhere_since_the_checkpoint_has_it(tmp_path):
    def moved(make):
        model = make()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.5 * parameter.requires_grad
        return model

    def redrawn():
        model = tiny.encoder("bert")
        nn.init.normal_(model.classifier.weight)
        return model

    for folder, make, other in (
        (tmp_path / "adapter", encoder(QUERY), lambda: moved(encoder(QUERY))),
        (tmp_path / "head", encoder(), redrawn),
    ):
        assert begun(folder, make=make).loss == begun(folder, make=other).loss


@pytest.mark.parametrize("file", ["state.json", "trained.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "bit", "gone", "empty"])
def test_damaged_checkpoint_is_one_clear_line(tmp_path, file, damage):
    begun(tmp_path)
    damaged = checkpoints.newest(tmp_path) / file
    content = damaged.read_bytes()
    changed = content[:-30] + bytes([content[-30] ^ 1]) + content[-29:]
    damaged.write_bytes({"cut": content[:-20], "bit": changed}.get(damage, b""))
    if damage == "gone":
        damaged.unlink()
    refused(tmp_path, "cannot be read")


@pytest.mark.parametrize(("change", "message"), [
    (lambda state: None, "cannot be read"),
    (lambda state: state | {"history": {n: values[:1] for n, values in state["history"].items()}}, "cannot be read"),
    (lambda state: {n: v for n, v in state.items() if n != "checksums"}, "written by an earlier version of coursekit"),
])  # fmt: skip
def test_a_state_that_was_changed_is_refused_before_anything_happens(tmp_path, change, message):
    begun(tmp_path)
    file = checkpoints.newest(tmp_path) / "state.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    refused(tmp_path, message)


def test_weights_that_are_not_finite_are_not_gone_on_with(tmp_path):
    model, data = tiny.encoder("bert"), tiny_text.prepared("encoder")
    stopping(model, 3, lambda: setattr(model.classifier.bias, "data", torch.full((2,), float("inf"))))
    with pytest.raises(CourseError, match="the loss is nan"):
        fit(model, data, steps=4, checkpoint=tmp_path, **QUICK)
    assert checkpoints.newest(tmp_path).name == "step-000002"
    refused(tmp_path, "holds values of classifier.bias that are not finite", steps=4)


def test_one_entry_of_the_codes_of_a_quantized_base_is_noticed():
    model = tiny.decoder("llama").requires_grad_(False)
    quantize_model(model)
    before = identity.checksum(identity.frozen(model))
    assert before == identity.checksum(identity.frozen(model))
    codes = next(b for _, b in model.named_buffers() if b.dtype is torch.uint8)
    codes.view(-1)[0] ^= 1
    assert identity.checksum(identity.frozen(model)) != before


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_model_that_a_run_has_left_goes_on_in_it_and_in_no_other(tmp_path, kind):
    model, data = (tiny.model("bert" if kind == "encoder" else "llama", dtype=torch.bfloat16), tiny_text.prepared(kind))
    settings = dict(steps=6, checkpoint_every=2, **QUICK)
    straight = fit(copy.deepcopy(model), data, **settings)
    with pytest.raises(Interruption):
        fit(model, data, checkpoint=tmp_path / "one", after_step=lambda step: step < 3 or fail(), **settings)
    assert fit(model, data, checkpoint=tmp_path / "one", **settings).loss == straight.loss
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    refused(tmp_path / "one", "weights at the start was", data, lambda: model, **settings)


def test_another_objective_of_the_same_name_is_another_run(tmp_path):
    data = tiny_text.prepared("encoder")

    def written(text):
        space = {}
        exec(f"def loss(model, batch):\n    return {text}", space)
        return space["loss"]

    def scaled(factor):
        return lambda model, batch: factor * model(**batch).loss

    for one, other in ((written("model(**batch).loss"), written("5 * model(**batch).loss")), (scaled(1), scaled(5))):
        run = dict(steps=2, checkpoint=tmp_path / str(one is not other), **QUICK)
        shutil.rmtree(run["checkpoint"], ignore_errors=True)
        fit(tiny.encoder("bert"), data, objective=one, **run)
        assert len(fit(tiny.encoder("bert"), data, objective=one, **run)) == 2
        refused(run["checkpoint"], "another run: objective was", data, tiny.encoder, objective=other)
    moved = written("\\\n        model(**batch).loss")  # to another line of its cell
    assert identity.objective_identity(moved) == identity.objective_identity(written("model(**batch).loss"))


def test_a_folder_at_home_is_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fit(tiny.encoder("bert"), tiny_text.prepared("encoder"), steps=1, checkpoint="~/run", **QUICK)
    assert (tmp_path / "run" / "step-000001").is_dir()


def edited(kind, edit):
    r"""Prepared data of which the last row is another one."""
    data = tiny_text.prepared(kind)
    rows = data.data["train"].to_list()
    edit(rows[-1])
    return with_rows(data, rows)


def lengthened(row, n=tiny.POSITIONS + 1):
    row.update(input_ids=[5] * n, attention_mask=[1] * n)


@pytest.mark.parametrize(("row", "scale"), [(0, 1), (40, 1), (47, 1), (3, 0.25)])
def test_data_that_differ_in_any_row_are_other_data(row, scale):
    r"""Classes, and ratings that differ behind the point."""
    data = tiny_text.prepared("encoder")
    data = with_rows(data, [one | {"labels": scale * one["labels"]} for one in data.data["train"].to_list()])
    before = identity.data_identity(data, "train")
    rows = data.data["train"].to_list()
    assert identity.data_identity(with_rows(data, rows), "train") == before
    rows[row]["labels"] = scale - rows[row]["labels"]
    assert identity.data_identity(with_rows(data, rows), "train") != before
    rows = data.data["train"].to_list()
    rows[row], rows[row - 1] = rows[row - 1], rows[row]
    assert identity.data_identity(with_rows(data, rows), "train") != before


def with_rows(data, rows):
    return replace(data, data=type(data.data)(train=Dataset.from_list(rows)))


def test_only_checkpoints_are_taken_for_checkpoints(tmp_path):
    data = tiny_text.prepared("encoder")
    for name in ("step-by-step-notes", "step-1", ".step-ladder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    (tmp_path / ".step-000001.4711").mkdir()  # what a killed run left
    settings = dict(steps=4, checkpoint_every=2, **QUICK)
    fit(tiny.encoder("bert"), data, checkpoint=tmp_path, **settings)
    assert {p.name for p in tmp_path.iterdir()} == {"step-by-step-notes", "step-1", ".step-ladder", "step-000004"}
    for folder in ("step-000999", "step-1000000", "step-000002"):
        (tmp_path / folder).mkdir()
    assert checkpoints.newest(tmp_path).name == "step-1000000"


def test_two_runs_do_not_share_a_folder(tmp_path):
    data, other = tiny_text.prepared("encoder"), []

    def second():
        with pytest.raises(CourseError, match="another run is writing its checkpoints to"):
            fit(tiny.encoder("bert"), data, steps=2, checkpoint=tmp_path, **QUICK)
        other.append(True)

    fit(stopping(tiny.encoder("bert"), 2, second), data, steps=3, checkpoint=tmp_path, **QUICK)
    assert other == [True] and [p.name for p in tmp_path.iterdir()] == ["step-000003"]
    assert len(fit(tiny.encoder("bert"), data, steps=3, checkpoint=tmp_path, **QUICK)) == 3, "the folder is free again"


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_is_noticed_before_training(tmp_path, where):
    (tmp_path / "file").write_text("mine")
    model, calls = tiny.encoder("bert"), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(CourseError, match="cannot write checkpoints to .*name another folder"):
        fit(model, tiny_text.prepared("encoder"), steps=2, checkpoint=tmp_path / where, **QUICK)
    assert not calls and (tmp_path / "file").read_text() == "mine"


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
    for part in ("step 4", "learning rate", "try", "step 3", str(tmp_path), "another folder for other settings"):
        assert part in message
    if where == "gradient":
        resumed, straight = tiny.encoder("bert"), tiny.encoder("bert")
        assert (
            fit(resumed, data, steps=8, checkpoint=tmp_path, **QUICK).loss == fit(straight, data, steps=8, **QUICK).loss
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
    model, data = (tiny.encoder("bert", dtype=torch.bfloat16).requires_grad_(False), tiny_text.prepared("encoder"))
    model.classifier.float().requires_grad_(True)
    model.classifier.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    fit(model, data, steps=2, **QUICK)
    assert model.classifier.weight.dtype == torch.float32
    assert model.base_model.encoder.layer[0].output.dense.weight.dtype == torch.bfloat16


def labelled(labels):
    data = tiny_text.prepared("encoder")
    rows = data.data["train"].remove_columns("labels").add_column("labels", labels)
    return replace(data, data=type(data.data)(train=rows))


def without_a_column():
    data = tiny_text.prepared("encoder")
    return replace(data, data=type(data.data)(train=data.data["train"].remove_columns("attention_mask")))


FIVE, RATING = labelled([i % 5 for i in range(48)]), labelled([i / 48 for i in range(48)])
NO_LOSS = "what an objective returns must be one number that depends on what trains"
UNKNOWN = "has token 97.*tokens below 97.*tokenizer"


def returning(found):
    return lambda model, batch: found(model(**batch).loss)


def unknown_token(row):
    row["input_ids"][-1] = tiny.VOCAB


#: What `fit` is given in another way than it should be, and what it says.
MISTAKES = [
    (dict(steps=0), "steps must be a positive integer, such as 60; got 0."),
    (dict(steps=None), "steps must be a positive integer"),
    (dict(batch_size=-1), "batch_size must be a positive integer, such as 16; got -1."),
    (dict(batch_size=True), "batch_size must be a positive integer"),
    (dict(batch_size=10**7), "batch_size must be at most 48, as the train split of good or bad has no more rows"),
    (dict(lr=0.0), "lr must be a number above 0, such as 0.001; got 0.0."),
    (dict(lr=float("nan")), "lr must be a number above 0, such as 0.001; got nan."),
    (dict(lr="1e-3"), "lr must be a number above 0"),
    (dict(warmup=10), "warmup must be a number of at least 0 and of at most 1, such as 0.1; got 10."),
    (dict(clip=0), r"clip \(None for no limit\) must be a number above 0, such as 1; got 0."),
    (dict(clip=-1.0), r"clip \(None for no limit\) must be a number above 0, such as 1; got -1.0."),
    (dict(weight_decay=-0.1), "weight_decay must be a number of at least 0; got -0.1."),
    (dict(seed="a"), "seed must be an integer; got 'a'."),
    (dict(optimizer=None), "optimizer must be a name such as 'adamw', or a function; got None."),
    (dict(optimizer="adamv"), "unknown optimizer 'adamv'; did you mean 'adamw'"),
    (dict(optimizer=lambda p: torch.optim.SGD([nn.Parameter(torch.zeros(2))])), "holds 0 of the .* and 1 others"),
    (dict(optimizer=lambda p: torch.optim.SGD(p[:2])), "holds 2 of the"),
    (dict(optimizer=lambda p: None), "must make an optimizer of PyTorch; got None"),
    (dict(objective=3), "objective must be a function of a model and a batch, or None; got 3."),
    (dict(objective=returning(lambda loss: None)), NO_LOSS),
    (dict(objective=returning(lambda loss: 1.0)), NO_LOSS),
    (dict(objective=returning(lambda loss: loss.detach())), NO_LOSS),
    (dict(objective=returning(lambda loss: loss[None])), NO_LOSS),
    (dict(objective=returning(lambda loss: (loss,))), NO_LOSS),
    (dict(checkpoint=3), "checkpoint must be a folder, or None; got 3."),
    (dict(after_step=5), "after_step must be a function"),
    (dict(activation_checkpointing="no"), "activation_checkpointing must be True or False; got 'no'."),
    (dict(checkpoint_every=1.5), r"checkpoint_every \(None for the end only\) must be a positive integer"),
    (dict(checkpoint_every=0), "must be a positive integer, such as 20; got 0."),
    (dict(split="trian"), "unknown split 'trian'; did you mean 'train'"),
    (dict(bucket=1), "bucket must be True or False; got 1."),
    (dict(accumulate=0), "accumulate must be a positive integer"),
    (dict(model=None), "model must be a PyTorch module; got"),
    (dict(model="minilm"), "model must be a PyTorch module; got"),
    (dict(model=tiny.encoder("bert").requires_grad_(False)), "nothing to train"),
    (dict(model=tiny.encoder("bert").to("meta")), "meta device"),
    (dict(prepared=None), "data must be prepared for a model"),
    (dict(prepared=[1, 2]), "data must be prepared for a model"),
    (dict(prepared=without_a_column()), "has no column attention_mask"),
    (dict(prepared=FIVE), "has 5 classes, and the model has 2 outputs.*num_labels=5"),
    (dict(prepared=FIVE, model=tiny.encoder("bert", num_labels=1)), "has 5 classes, and the model has 1 output:"),
    (dict(prepared=RATING), "has ratings, and the model has 2 outputs.*num_labels=1"),
    (dict(model=tiny.decoder("llama")), "for an encoder.*LlamaForCausalLM is none"),
    (dict(model=tiny.encoder("roberta"), prepared=tiny_text.prepared("decoder")), "for a decoder.*none: .*for_encoder"),
    *((dict(model=tiny.model(family), prepared=edited("encoder" if family in tiny.ENCODERS else "decoder", edit)), said)
      for family, edit, said in (
        ("bert", unknown_token, UNKNOWN),
        ("gpt2", unknown_token, UNKNOWN),
        ("bert", lengthened, "has .* tokens, and BertForSequenceClassification has .* positions"),
        ("roberta", lengthened, "has .* positions: prepare with a smaller max_length"),
        ("bert", lambda row: row.update(labels=-1), "has the label -1: classes are numbered from 0"),
        ("bert", lambda row: row["input_ids"].__setitem__(0, -3), "has token -3: token ids are 0 and above"),
        ("bert", lambda row: row.update(input_ids=[], attention_mask=[]), "has no token: leave it out"),
        ("llama", lambda row: row["labels"].__setitem__(-1, 97), "has the label 97"),
        ("llama", lambda row: row["labels"].__setitem__(-1, -7), "has the label -7"))),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), MISTAKES)
def test_a_mistake_is_one_clear_line_and_changes_nothing(given, message):
    model = given.get("model", tiny.encoder("bert"))
    before = weights(model) if isinstance(model, nn.Module) and model.device.type == "cpu" else {}
    with pytest.raises(CourseError, match=message) as error:
        unchecked(**(dict(model=model, prepared=tiny_text.prepared("encoder")) | QUICK | given))
    assert "\n" not in str(error.value)
    assert all(torch.equal(parameter, model.get_parameter(name)) for name, parameter in before.items())


@pytest.mark.parametrize(
    "optimizer", ["adamw", lambda p: torch.optim.SGD(p, lr=np.float32(0.1), momentum=np.float64(0.9))]
)
def test_numbers_of_numpy_train_and_are_kept(tmp_path, optimizer):
    data, path = tiny_text.prepared("encoder"), tmp_path / "run"
    plain = dict(steps=4, batch_size=4, accumulate=2, seed=3, lr=0.5, clip=0.5, warmup=0.5, weight_decay=0.25)
    kinds = {int: np.int64, float: np.float32}
    numpy = {name: kinds[type(value)](value) for name, value in plain.items()}
    settings = dict(optimizer=optimizer, checkpoint_every=np.int64(2), progress=False)
    own, other = tiny.encoder("bert"), tiny.encoder("bert")
    history = unchecked(own, data, checkpoint=path, **numpy, **settings)
    assert unchecked(other, data, checkpoint=tmp_path / "plain", **plain, **settings).loss == history.loss
    again = unchecked(tiny.encoder("bert"), data, checkpoint=path, **plain, **settings)
    assert again.loss == history.loss, "one run"
    assert same(weights(own), weights(other))


def test_an_optimizer_that_no_checkpoint_can_hold_is_refused_before_the_first_step(tmp_path):
    class Odd(torch.optim.SGD):
        def state_dict(self):
            return super().state_dict() | {"what": object()}

    model = tiny.encoder("bert")
    before = weights(model)
    with pytest.raises(CourseError, match="cannot be kept in a checkpoint"):
        fit(model, tiny_text.prepared("encoder"), steps=2, optimizer=lambda p: Odd(p, lr=0.1), checkpoint=tmp_path,
            **QUICK)  # fmt: skip
    assert same(weights(model), before)


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
    results = {}
    for processes, batch in ((1, 8), (2, 4)):
        script, out = tmp_path / f"train{processes}.py", tmp_path / f"{processes}-"
        folder = str(tmp_path / f"run{processes}")
        script.write_text(SCRIPT.format(tests=str(root / "tests"), batch=batch, folder=folder, out=str(out)))
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        launched = subprocess.Popen(
            [*launch, str(script)], stderr=subprocess.PIPE, text=True, cwd=root,
            env=os.environ | {"ACCELERATE_USE_CPU": "true"},
        )  # fmt: skip
        try:
            _, said = launched.communicate(timeout=600)
        except subprocess.TimeoutExpired:  # each worker has a session of its own, and would stay
            for process in (*psutil.Process(launched.pid).children(recursive=True), launched):
                process.kill()
            raise
        assert launched.returncode == 0, said[-3000:]
        results[processes] = [json.loads(path.read_text()) for path in sorted(tmp_path.glob(f"{processes}-rank*"))]
    assert len(results[2]) == 2
    (loss, total), *others = results[1] + results[2]
    for other_loss, other_total in others:
        assert other_loss == pytest.approx(loss, rel=1e-4)
        assert other_total == pytest.approx(total, rel=1e-6)


# Another objective --------------------------------------------------------------------------------------------------


def test_an_objective_takes_the_place_of_the_loss_and_is_noted():
    data = tiny_text.prepared("decoder")
    own = fit(tiny.decoder(), data, steps=4, **(QUICK | dict(optimizer="sgd", clip=None)))
    history = fit(
        tiny.decoder(), data, steps=4, objective=Doubled(),
        **(QUICK | dict(optimizer="sgd", clip=None, lr=QUICK["lr"] / 2)),
    )  # fmt: skip
    assert history.noted["own"] == pytest.approx(own.loss, rel=1e-5)
    assert history.loss == pytest.approx([2 * loss for loss in own.loss], rel=1e-5)
    assert history.to_dict()["own"] == history.noted["own"] and history.last()["own"] == history.noted["own"][-1]
    plain = fit(tiny.decoder(), data, steps=4, objective=lambda model, batch: model(**batch).loss, **QUICK)
    assert plain.loss == fit(tiny.decoder(), data, steps=4, **QUICK).loss and not plain.noted


def test_what_is_noted_of_accumulated_batches_is_their_mean():
    data = tiny_text.prepared("decoder")
    one = fit(tiny.decoder(), data, steps=2, objective=Doubled(), **(QUICK | dict(batch_size=8)))
    two = fit(tiny.decoder(), data, steps=2, objective=Doubled(), **(QUICK | dict(batch_size=4, accumulate=2)))
    assert two.noted["own"] == pytest.approx(one.noted["own"], rel=1e-5)


def test_an_objective_cannot_note_what_every_history_has():
    with pytest.raises(CourseError, match="cannot note 'loss'"):
        fit(tiny.decoder(), tiny_text.prepared("decoder"), steps=1, objective=Doubled(name="loss"), **QUICK)


def test_a_look_on_the_way_comes_after_each_step_and_moves_nothing():
    seen: list[int] = []

    def look(done: int) -> None:
        seen.append(done)
        torch.rand(7)

    losses, ends = [], []
    for after_step in (None, look):
        seed_everything(0)
        model = LoRA(r=2, dropout=0.5).attach(tiny.encoder("bert"))
        history = fit(model, tiny_text.prepared("encoder"), steps=4, after_step=after_step, **QUICK)
        losses.append(history.loss)
        ends.append(weights(model))
    assert seen == [1, 2, 3, 4] and losses[0] == losses[1] and same(*ends)


def test_gradients_from_before_are_no_part_of_the_first_step():
    data, clean, looked_at = tiny_text.prepared("encoder"), tiny.encoder("bert"), tiny.encoder("bert")
    looked_at(**{k: v for k, v in data.collate(data.data["train"].to_list()[:4]).items()}).loss.backward()
    history = fit(clean, data, steps=2, **QUICK)
    assert fit(looked_at, data, steps=2, **QUICK).grad_norm == history.grad_norm
    assert same(weights(looked_at), weights(clean))


def test_a_fraction_of_a_step_of_warm_up_is_a_step():
    assert [schedule(i, 15, 0.1) for i in range(3)] == [0.5, 1.0, 1.0], "1.5 steps are two"
    assert schedule(0, 5, 0.1) == 1.0 and schedule(0, 25, 0.1) == pytest.approx(1 / 3)

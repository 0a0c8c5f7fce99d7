r"""What all methods share: branches, mixed rows, the 16-bit rule, targets, checkpoint tables, taking off again."""

import importlib
import re
from pathlib import Path

import pytest
import tiny
import torch
from attached import nonzero, rows_answer_as_alone

from coursekit import memory, methods
from coursekit.architecture import describe
from coursekit.errors import CourseError
from coursekit.methods import LoRA
from coursekit.methods.mechanism.anatomy import anatomy, anatomy_of
from coursekit.methods.mechanism.attachment import by_rows
from coursekit.methods.mechanism.modules import AdapterState, MixedRows
from coursekit.methods.mechanism.names import checked_names

# the method on the page of CONTRIBUTING.md --------------------------------------------------------------------

PAGE = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("family", "target", "other"),
    [("bert", "value", "dense"), ("roberta", "value", "query"), ("gpt2", "c_proj", "c_attn"), ("opt", "v_proj", "fc2"),
     ("llama", "v_proj", "down_proj")],
)  # fmt: skip
def test_the_method_on_the_page_is_a_method(family, target, other, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "gain.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    Gain = importlib.import_module("gain").Gain
    method, model, one = Gain((target,)), tiny.model(family), tiny.batch()
    plain = model(**one).logits
    assert torch.equal(method.attach(model, "film")(**one).logits, plain)
    trained = model._coursekit.parameters["film"]
    inserted = [layer.branches["film"].g for _, layer in method.branches(model, "film")]
    head = sum(p.numel() for p in trained) - sum(g.numel() for g in inserted)
    assert head == methods.trainable(getattr(model, "classifier", torch.nn.Identity()))
    assert method.count(model.config) == sum(g.numel() for g in inserted) == {"gpt2": 4, "llama": 1}.get(family, 2) * 32
    film = nonzero(model, 1)(**one).logits
    assert not torch.allclose(film, plain)
    with pytest.warns(UserWarning, match="no entry for Gain: these figures are one measured step"):
        bill = memory.predict(model.config, method, batch=3, seq=10)
    # its parameters and the head, their gradients, and two moments with a counter for each tensor
    numbers = sum(p.numel() for p in trained)
    assert (bill.gradients, bill.optimizer) == (4 * numbers, 8 * numbers + 4 * len(trained))
    assert bill.activations > bill.kept > 0

    nonzero(Gain((other,)).attach(model, "product"), 2)
    rows_answer_as_alone(model, ["product", None, "film"], one)
    method.save(model, tmp_path / "saved", "film")
    again = methods.from_checkpoint(tmp_path / "saved")
    assert again == method and torch.equal(again.load(tiny.model(family), tmp_path / "saved")(**one).logits, film)
    torch.testing.assert_close(method.merge(model, "film")(**one).logits, film, atol=1e-5, rtol=1e-4)
    assert torch.equal(methods.detach(model)(**one).logits, plain)


# rows of one batch ------------------------------------------------------------------------------------------


def mixed(*names) -> AdapterState:
    return AdapterState("nobody", MixedRows(names, torch.device("cpu")))


def test_each_row_is_answered_by_its_own_adapter():
    switch, x, asked = mixed("b", None, "b", "a"), torch.randn(4, 5, 3), []

    def answer(name, rows, doubled):
        asked.append((name, switch.part.tolist()))
        assert torch.equal(doubled, 2 * rows)
        return rows * {"a": 10, "b": 20, None: 1}[name]

    y = by_rows(switch, answer, x, 2 * x)
    assert torch.equal(y, x * torch.tensor([20, 1, 20, 10]).view(4, 1, 1))
    assert asked == [("b", [0, 2]), (None, [1]), ("a", [3])] and switch.part is None
    alone = by_rows(AdapterState("one"), lambda name, rows: rows * len(name), x)
    assert torch.equal(alone, 3 * x)


def test_tokens_in_one_dimension_belong_to_their_rows_and_come_back_flat():
    x = torch.randn(6, 3)  # two rows of three tokens, as in OPT's feed-forward
    y = by_rows(mixed("a", None), lambda name, rows: rows.repeat(1, 1, 2) * (2 if name else 1), x)
    assert torch.equal(y, torch.cat([x, x], 1) * torch.tensor([2, 2, 2, 1, 1, 1])[:, None])
    ids = torch.arange(6).view(2, 3)  # token ids have two dimensions as well
    assert torch.equal(
        by_rows(mixed("a", None), lambda name, rows: rows + bool(name), ids), ids + torch.tensor([[1], [0]])
    )
    one = torch.randn(1, 4, 3)  # positions, looked up once for all rows
    assert torch.equal(
        by_rows(mixed("a", None), lambda name, rows: rows * (2 if name else 1), one), torch.cat([2 * one, one])
    )


def test_rows_that_do_not_fit_are_an_error():
    with pytest.raises(CourseError, match="given 2 adapter names, but the batch has 3 rows"):
        by_rows(mixed("a", None), lambda name, rows: rows, torch.randn(3, 4, 5))
    switch = mixed("a", None)
    with pytest.raises(CourseError, match=r"of one size, these differ: a: \(4, 1\), None: \(4, 5\)"):
        by_rows(switch, lambda name, rows: rows[..., :1] if name else rows, torch.randn(2, 4, 5))
    assert switch.part is None


def test_lora_on_positions_that_are_looked_up_once_for_all_rows():
    model, one = tiny.model("gpt2"), tiny.batch()
    nonzero(LoRA(r=2, targets=("wpe",)).attach(model, "film"))
    rows_answer_as_alone(model, ["film", None, "film"], one)


# targets ----------------------------------------------------------------------------------------------------


def test_names_in_any_form():
    assert checked_names("q", ("x",)) == ("q",) and checked_names(["b", "a"], ("x",)) == ("b", "a")
    assert checked_names({"b", "a"}, ("x",)) == ("a", "b") and checked_names(None, ("x",)) is None
    assert checked_names("all-linear", ("x",)) == "all-linear"
    assert checked_names("all-linear", ("x",), words=()) == ("all-linear",)


# checkpoint tables ------------------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return '{"peft_type": ' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize("text", [
    nested(1), nested(100_000), '{"peft_type": "HYBRID", "parts": 3}', '{"peft_type": "HYBRID", "parts": [[]]}',
    '{"peft_type": "HYBRID", "parts": [{"peft_type": "HYBRID", "parts": []}]}', '{"peft_type": {}}',
    '{"peft_type": "LORA", "r": "4", "lora_alpha": 1, "target_modules": ["q_proj"]}',
    '{"peft_type": "LORA", "r": 4, "lora_alpha": [], "target_modules": ["q_proj"]}',
    '{"peft_type": "LORA", "r": 4, "lora_alpha": 1, "target_modules": [3]}',
    '{"peft_type": "LORA", "r": 1000000000000, "lora_alpha": 1, "target_modules": ["q_proj"]}',
    '{"peft_type": "LORA", "r": 4, "lora_alpha": Infinity, "target_modules": ["q_proj"]}',
    '{"peft_type": "IA3", "target_modules": 3, "feedforward_modules": {}}',
    '{"peft_type": "IA3", "target_modules": [3], "feedforward_modules": [[]]}',
    '{"peft_type": "MAM", "n": [], "hidden": {}, "r": "a", "scaling": null}',
])  # fmt: skip
def test_a_hostile_config_is_an_error_in_a_line(text, tmp_path):
    LoRA(r=2).save(LoRA(r=2).attach(tiny.model("llama")), tmp_path)
    (tmp_path / "adapter_config.json").write_text(text)
    model = tiny.model("llama")
    with pytest.raises(CourseError) as raised:
        methods.from_checkpoint(tmp_path).load(model, tmp_path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
    assert methods.attached(model) == {} and all(p.requires_grad for p in model.parameters())


# taking off -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["detach", "remove"])
def test_every_flag_is_what_it_was_before(last):
    model = tiny.model("bert")
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 == 0)
    before = [p.requires_grad for p in model.parameters()]
    LoRA(r=2).attach(model)
    assert before != [p.requires_grad for p in model.parameters()]
    methods.detach(model) if last == "detach" else methods.remove(model, "default")
    assert [p.requires_grad for p in model.parameters()] == before and True in before and False in before


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_path_leads_into_the_block_that_it_names(family):
    r"""In a model of twelve blocks the path of block 1 is the beginning of those of blocks 10 and 11."""
    model = tiny.model(tiny.Awkward(family))
    for shapes in (anatomy(model), anatomy_of(describe(model.config))):
        paths = [path for path, _ in model.base_model.named_parameters()]
        numbered = {path: re.search(r"\.(\d+)\.", f".{path}") for path in paths}
        assert {p: shapes.inside(p) for p in paths} == {p: n and int(n[1]) for p, n in numbered.items()}
        assert {shapes.name(p).split(".")[0] for p in paths if numbered[p]}.isdisjoint("0123456789")
    for k in (1, 2, 11):
        trained = methods.trained(methods.TopLayers(k=k).attach(tiny.model(tiny.Awkward(family))))
        blocks = {int(n[1]) for n in (re.search(r"\.(\d+)\.", path) for path in trained) if n}
        assert blocks == set(range(12 - k, 12))

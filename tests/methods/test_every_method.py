r"""What every method promises, on every family that it fits.

Start, freezing, counting, saving, switching, several adapters in one batch, precision, checkpointing, generation and
detaching are the same promises for all of them, so they are proved in one place. What a method computes is proved in
its own file, against the library or the formula it comes from.
"""

import contextlib
import copy
import dataclasses
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import families
import numpy as np
import pytest
import tiny
import torch
from any_model import ANYWHERE, ROWS, WORKS, tried
from attached import answers, hooks, labelled, nonzero, refused, state
from cases import CASES, Case, attach, build, lively, spread, step_by_step, texts, writes
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from coursekit import interop, methods
from coursekit.errors import CourseError
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import head_names
from coursekit.qlora import Linear4bit

#: Put something before the text or before its keys: masks, positions and caches are theirs, family by family.
BEFORE_THE_TEXT = ("PromptTuning", "PTuning", "PrefixTuning", "LlamaAdapter", "MAMAdapter", "UniPELT")


def named(name: str, family: str) -> str:
    return f"{name}-{'awkward-' * isinstance(family, tiny.Awkward)}{family}"


def pairs(select: Callable[[Case, int], Iterable[str]]) -> pytest.MarkDecorator:
    r"""The cases, each with the families that `select(case, its number)` names."""
    found = [
        pytest.param(case, family, id=named(case.name, family))
        for turn, case in enumerate(CASES)
        for family in select(case, turn)
    ]
    return pytest.mark.parametrize(("case", "family"), found)


def with_numpy(settings: object) -> object:
    r"""The same settings with NumPy's numbers in the place of Python's, in tuples and in other settings too."""
    if isinstance(settings, bool):
        return settings
    if isinstance(settings, int):
        return np.int64(settings)
    if isinstance(settings, float):
        return np.float32(settings)
    if isinstance(settings, tuple):
        return tuple(map(with_numpy, settings))
    if isinstance(settings, dict):
        return {key: with_numpy(value) for key, value in settings.items()}
    if isinstance(settings, methods.Hybrid):
        return methods.Hybrid(*map(with_numpy, settings.parts))
    if dataclasses.is_dataclass(settings):
        own = [f.name for f in dataclasses.fields(settings) if f.init]
        return dataclasses.replace(settings, **{name: with_numpy(getattr(settings, name)) for name in own})
    return settings


@pairs(lambda case, turn: spread(case, tiny.FAMILIES, turn)[:1])
def test_numbers_of_numpy_are_kept_as_python_s_own(case, family, tmp_path):
    r"""JSON and PyTorch take no others: a setting that attaches also runs, saves and loads."""
    method = with_numpy(case.make())
    model = nonzero(method.attach(build(case, family))).eval()
    loss = model(**labelled(family)).loss
    method.save(model, tmp_path)
    other = method.load(build(case, family), tmp_path).eval()
    assert torch.equal(other(**labelled(family)).loss, loss)


def few(case: Case, turn: int) -> Iterable[str]:
    r"""What the mechanism promises shows on two families, one of them with a model that is awkward."""
    two = spread(case, ("bert", "llama") if case.quantized else tiny.FAMILIES, turn)
    if case.quantized and case.name != "QLoRA":  # twelve blocks in 4 bits are slow, and QLoRA's are these
        return two
    return [tiny.Awkward(f) if i == turn % len(two) else f for i, f in enumerate(two)]


def one_of_few(case: Case, turn: int) -> Iterable[str]:
    r"""What no family has a part in: now an encoder, now a decoder, each now awkward."""
    two = list(few(case, turn))
    return [two[turn // 2 % len(two)]]


def all_that_fit(case: Case, turn: int) -> Iterable[str]:
    r"""What depends on the family's own modules. A base in 4 bits differs in its layers only: two families."""
    return few(case, turn) if case.quantized else case.families


def masked_ones(case: Case, turn: int) -> Iterable[str]:
    return all_that_fit(case, turn) if case.name.startswith(BEFORE_THE_TEXT) else few(case, turn)


def writers(case: Case, turn: int) -> Iterable[str]:
    r"""Generation: every decoder for what stands before the text, one decoder for the rest."""
    if case.quantized:
        return ()
    return [family for family in masked_ones(case, turn) if family in tiny.DECODERS]


def cached(case: Case, turn: int) -> Iterable[str]:
    r"""What a cache meets: virtual tokens, and one of each kind of wrapper."""
    one_of_each = ("LoRA", "HoulsbyAdapter", "IntrinsicSAID", "SelectRows")
    return writers(case, turn) if case.name.startswith(BEFORE_THE_TEXT) or case.name in one_of_each else ()


twice = pairs(few)
once = pairs(one_of_few)
#: Where rounding is measured, which grows with the number of blocks.
shallow_twice = pairs(lambda case, turn: map(str, few(case, turn)))
before_the_text_every = pairs(masked_ones)
writing = pairs(writers)
with_cache = pairs(cached)
by_method = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def own(name: str) -> pytest.MarkDecorator:
    r"""A case, and all whose method has its own `name`: for the others it is the same line."""
    cases = [c for c in CASES if c.name == "IA3" or getattr(type(c.make()), name) is not getattr(Method, name)]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


#: A base in 4 bits has no part in what is asked.
on_dense = pytest.mark.parametrize("case", [c for c in CASES if not c.quantized], ids=lambda case: case.name)


# from attaching to detaching ------------------------------------------------------------------------------

#: They wrap no layer of a body, so that DeBERTa's relative positions, of all rows at once, reach no adapter.
BESIDE_THE_LAYERS = ("prompt tuning", "P-tuning", "P-tuning, MLP", "Houlsby's adapters", "Compacter")
#: Of those that need a description: one of each kind of place.
DESCRIBED = ("Houlsby's adapters", "Compacter", "FAR", "prefix tuning", "LLaMA-Adapter", "MAM", "UniPELT")
#: Where there is nothing to train, or nothing known: models without biases, and targets that want a name.
REFUSED = {
    *(
        ("BitFit", kind)
        for kind in ("modernbert", "qwen3", "gemma2", "gemma3_text", "phi3", "smollm3", "t5", "olmo2")
    ),
    *(("(IA)³", kind) for kind in ("gpt_neox", "bloom", "olmo2")),
    *(
        (row, "olmo2")
        for row in (
            "LoRA", "DoRA", "PiSSA", "OLoRA", "EVA", "QLoRA", "LoftQ", "VeRA", "OFT", "rows", "columns", "SHiRA",
        )
    ),
}  # fmt: skip


def lives() -> Iterable[tuple[str, Case, str]]:
    r"""Every case on its families, of which some are awkward, and every row of the docs' table on all others."""
    for turn, case in enumerate(CASES):
        awkward = {family: family for family in few(case, turn)}
        yield from ((case.name, case, awkward.get(family, family)) for family in all_that_fit(case, turn))
    for row in (*ANYWHERE, *DESCRIBED):
        yield from ((row, ROWS[row], family) for family in (*families.OTHERS, *families.UNKNOWN))


@pytest.mark.parametrize(
    ("row", "case", "family"), [pytest.param(*life, id=named(life[0], life[2])) for life in lives()]
)
def test_from_attaching_to_detaching(row, case, family, tmp_path):
    if row in DESCRIBED and tried(row, family)[0] != WORKS:
        pytest.skip("as the table in the docs says, which tests/methods/test_any_model.py compares")
    one, method, model = labelled(family, padded=True), case.make(), build(case, family)
    plain, before, base = answers(model, one), state(model), list(model.parameters())
    if (row, family) in REFUSED:
        with refused(".", model):
            method.attach(model)
        return
    method.attach(model)
    if case.identity:
        assert torch.equal(answers(model, one), plain)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in model._coursekit.parameters["default"]}
    heads = [p for name in head_names(model) for p in model.get_submodule(name).parameters() if p.requires_grad]
    assert method.count(model.config) == sum(p.numel() for p in trained) - sum(p.numel() for p in heads) > 0
    with torch.device("meta"):
        bare = method.attach(type(model)(model.config))
    assert methods.trainable(bare) == sum(p.numel() for p in trained)

    nonzero(model, scale=case.strong if isinstance(family, tiny.Awkward) else 0.1)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    if row != "full fine-tuning":  # which trains the base itself
        frozen += base
    kept, started = ([p.detach().clone() for p in tensors] for tensors in (frozen, trained))
    for seed in range(500 if case.name == "AdapterDrop-robust" else 1):  # which leaves blocks out by chance
        model.train()(**labelled(family, seed=seed, padded=True)).loss.backward()
        if all(p.grad is not None for p in trained):
            break
    assert all(p.grad is None for p in frozen)
    torch.optim.SGD(trained, lr=10.0).step()
    assert all(torch.equal(p, value) for p, value in zip(frozen, kept, strict=True))
    still = [p for p, start in zip(trained, started, strict=True) if torch.equal(p, start)]
    # Biases of keys have no gradient but rounding: they are the same for all that a softmax compares.
    assert all(p.grad is not None for p in trained)
    assert all(p.dim() == 1 and p.grad.abs().max() < 1e-6 for p in still) and len(still) < len(trained) / 4
    after = answers(model.eval(), one)
    assert after.shape == plain.shape and not torch.allclose(after, plain, atol=1e-4)

    method.save(model, tmp_path)
    assert torch.equal(answers(method.load(build(case, family), tmp_path), one), after)
    if row == "full fine-tuning":  # it has no base to go back to, and its folder is a whole model
        return
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    found = methods.from_checkpoint(tmp_path)
    assert isinstance(method, type(found))  # LoRA for those that `cases.py` gives what they look at
    assert torch.equal(answers(found.load(build(case, family), tmp_path, "film"), one), after)
    if family == "deberta-v2" and row not in BESIDE_THE_LAYERS:
        with refused("relative positions .* give each adapter a batch of its own", model):
            methods.mixed_batch(model, ["default", None, "default"]).__enter__()
    elif (row, family) not in (("SAID", "t5"), ("DID", "t5")):
        with methods.mixed_batch(model, ["default", None, "default"]):
            torch.testing.assert_close(
                answers(model, one), torch.stack([after[0], plain[1], after[2]]), atol=1e-5, rtol=1e-4
            )
    method.detach(model)
    assert state(model) == before and all(p.grad is None for p in model.parameters())
    assert torch.equal(answers(model, one), plain)


# start ----------------------------------------------------------------------------------------------------


#: Other models of the same families than `tiny.model` gives.
KINDS = {
    "body": (AutoModel, tiny.FAMILIES),
    "masked": (AutoModelForMaskedLM, tiny.ENCODERS),
    "tokens": (AutoModelForTokenClassification, ("bert", "roberta", "gpt2", "llama")),
    "questions": (AutoModelForQuestionAnswering, tiny.FAMILIES),
    "sequences": (AutoModelForSequenceClassification, tiny.DECODERS),
}
OTHERS = [
    pytest.param(case, family, kind, id=f"{case.name}-{family}-{kind}")
    for turn, case in enumerate(CASES) for kind, (_, families) in KINDS.items()
    for family in spread(case, [f for f in families if f in ("bert", "llama") or not case.quantized], turn)[-1:]
]  # fmt: skip


@pytest.mark.parametrize(("case", "family", "kind"), OTHERS)
def test_it_fits_bodies_and_all_heads_and_gives_them_back(case, family, kind):
    def bare():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return KINDS[kind][0].from_config(tiny.config(family)).eval()

    model, plain, one = bare(), bare(), tiny.batch(padded=True)
    before = plain(**one, output_hidden_states=True)
    method = case.make()
    method.attach(model)
    if case.identity:
        assert torch.equal(model(**one)[0], before[0])
    after = nonzero(model, scale=case.strong)(**one, output_hidden_states=True)
    assert [value.shape for value in after.values() if isinstance(value, Tensor)] == [
        value.shape for value in before.values() if isinstance(value, Tensor)
    ]
    assert [hidden.shape for hidden in after.hidden_states] == [hidden.shape for hidden in before.hidden_states]
    assert not torch.allclose(after[0], before[0], atol=1e-4)
    with torch.no_grad(), methods.mixed_batch(model, ["default", None, "default"]):
        mixed = model(**one)[0]
    seen = one["attention_mask"].bool() if mixed.shape[:2] == one["attention_mask"].shape else torch.ones(3).bool()
    expected = torch.stack([after[0][0], before[0][1], after[0][2]])
    torch.testing.assert_close(mixed[seen], expected[seen], atol=1e-5, rtol=1e-4)
    method.detach(model)
    assert model.state_dict().keys() == plain.state_dict().keys() and hooks(model) == hooks(plain)
    assert torch.equal(model(**one)[0], before[0])


# training -------------------------------------------------------------------------------------------------


@twice
def test_checkpointing_activations_gives_the_same_gradients(case, family):
    gradients = []
    for checkpointing in (False, True):
        model = attach(case, family).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)  # dropout, and what else a method draws
        model(**labelled(family, padded=True)).loss.backward()
        gradients.append([p.grad for p in model._coursekit.parameters["default"]])
    assert any(g is not None and g.abs().sum() > 0 for g in gradients[0])
    for plain, again in zip(*gradients, strict=True):
        assert (plain is None) == (again is None)
        if plain is not None:
            torch.testing.assert_close(again, plain, atol=1e-6, rtol=1e-5)


@with_cache
def test_a_loss_over_what_the_caller_says_each_position_predicts(case, family):
    model, ids = attach(case, family), tiny.batch()["input_ids"]
    after = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], dim=1)
    after[1] = -100
    logits = model(input_ids=ids).logits
    loss = model(input_ids=ids, labels=ids, shift_labels=after, num_items_in_batch=7).loss
    summed = nn.functional.cross_entropy(logits.flatten(0, 1), after.flatten(), reduction="sum")
    torch.testing.assert_close(loss, summed / 7)


@before_the_text_every
def test_both_ways_to_compute_attention_agree(case, family):
    one, answers = labelled(family, padded=True), []
    for implementation in ("eager", "sdpa"):
        model = attach(case, family, attn_implementation=implementation)
        assert model.config._attn_implementation == implementation
        answers.append(model(**one).logits[one["attention_mask"].bool()] if family in tiny.DECODERS
                       else model(**one).logits)  # fmt: skip
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-4)


@twice
def test_a_sixteen_bit_base_gets_parameters_in_full_precision(case, family):
    model = build(case, family).bfloat16()
    case.make().attach(model)
    nonzero(model)
    heads = {id(p) for n, p in model.named_parameters() if ".copies." in n}
    own = [p for p in model._coursekit.parameters["default"] if id(p) not in heads]
    assert {p.dtype for p in own} == {torch.float32}
    done = model(**labelled(family))
    assert done.logits.dtype == torch.bfloat16 and torch.isfinite(done.logits).all()
    done.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in own if p.grad is not None)


@shallow_twice
def test_autocast_gives_nearly_the_same_gradients(case, family):
    gradients, dtype = [], torch.bfloat16 if family in tiny.ENCODERS else torch.float16
    for enabled in (False, True):
        model = attach(case, family)
        with torch.autocast("cpu", dtype, enabled=enabled):
            loss = model(**labelled(family, padded=True)).loss
        loss.backward()
        own = model._coursekit.parameters["default"]
        assert {p.grad.dtype for p in own if p.grad is not None} == {torch.float32}
        gradients.append(torch.cat([p.grad.flatten() for p in own if p.grad is not None]))
    exact, rounded = gradients
    assert not torch.equal(exact, rounded)
    assert (rounded - exact).norm() < 0.05 * exact.norm()


@once
def test_float64_stays_float64(case, family):
    model = build(case, family).double()
    nonzero(case.make().attach(model))
    assert {p.dtype for p in model._coursekit.parameters["default"]} == {torch.float64}
    exact = model(**labelled(family)).logits
    single = attach(case, family)(**labelled(family)).logits
    torch.testing.assert_close(exact.float(), single, atol=1e-4, rtol=1e-3)


# rows -----------------------------------------------------------------------------------------------------


@before_the_text_every
def test_padding_on_the_right_changes_nothing(case, family):
    model, one = attach(case, family), labelled(family, padded=True)
    with torch.no_grad():
        padded = model(input_ids=one["input_ids"], attention_mask=one["attention_mask"]).logits
        for row, length in enumerate(one["attention_mask"].sum(1).tolist()):
            alone = model(input_ids=one["input_ids"][row : row + 1, :length]).logits[0]
            seen = padded[row, :length] if family in tiny.DECODERS else padded[row]
            torch.testing.assert_close(seen, alone, atol=1e-5, rtol=1e-4)


@before_the_text_every
def test_adapters_are_switched_mixed_and_removed(case, family):
    one = tiny.batch()
    alone = {}
    for seed, name in enumerate(("film", "product")):
        model = nonzero(case.make().attach(build(case, family), name), seed)
        alone[name] = model(**one).logits
    model = build(case, family)
    plain = model(**one).logits
    for seed, name in enumerate(("film", "product")):
        nonzero(case.make().attach(model, name), seed)
    for name in ("film", "product", "film"):
        methods.activate(model, name)
        assert torch.equal(model(**one).logits, alone[name])
        assert {id(p) for p in model.parameters() if p.requires_grad} == {
            id(p) for p in model._coursekit.parameters[name]
        }
    with methods.disabled(model):
        assert torch.equal(model(**one).logits, plain)
    with torch.no_grad(), methods.mixed_batch(model, ["product", None, "film"]):
        mixed = model(**one).logits
    expected = torch.stack([alone["product"][0], plain[1], alone["film"][2]])
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(model(**one).logits, alone["film"])
    with methods.mixed_batch(model, ["film"] * 2), pytest.raises(CourseError, match="given 2 .* has 3 rows"):
        model(**one)
    methods.remove(model, "film")
    assert list(methods.attached(model)) == ["product"]
    assert torch.equal(model(**one).logits, alone["product"])
    methods.remove(model, "product")
    assert torch.equal(model(**one).logits, plain) and hooks(model) == 0


@once
def test_who_answers_can_be_changed_for_a_while_within_a_while(case, family):
    model, one = build(case, family), tiny.batch()
    plain = model(**one).logits
    for seed, name in enumerate(("film", "product")):
        nonzero(case.make().attach(model, name), seed)
    with methods.mixed_batch(model, ["film", "product", None]):
        outer = model(**one).logits
        with methods.disabled(model):
            assert torch.equal(model(**one).logits, plain)
            with methods.mixed_batch(model, ["film", "product", None]):
                assert torch.equal(model(**one).logits, outer)
            assert torch.equal(model(**one).logits, plain)
        with methods.mixed_batch(model, iter(["product", None, "film"])):
            assert not torch.allclose(model(**one).logits, outer, atol=1e-4)
        assert torch.equal(model(**one).logits, outer)


@once
def test_rows_of_one_batch_train_their_own_adapter(case, family):
    model = build(case, family)
    for seed, name in enumerate(("film", "product")):
        nonzero(case.make().attach(model, name), seed)
    for parameters in model._coursekit.parameters.values():
        for parameter in parameters:
            parameter.requires_grad_(True)
    with methods.mixed_batch(model, ["film", "product"]):
        model(**tiny.batch(2)).logits[0].sum().backward()
    named = model._coursekit.parameters
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in named["film"])
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in named["product"])


# bookkeeping ----------------------------------------------------------------------------------------------


@on_dense
def test_adapters_of_different_settings_come_and_go_beside_one_another(case, tmp_path):
    r"""Everything is done to the adapter that is not the active one, and its tensors come in another order."""
    family, alone, one = tiny.Awkward(case.families[-1]), {}, tiny.batch()
    made, starts = {"film": case.make(), "product": case.other()}, {}
    for seed, (name, method) in enumerate(made.items()):
        torch.manual_seed(seed)
        model = method.attach(build(case, family), name)
        starts[name] = [p.detach().clone() for p in model._coursekit.parameters[name]]
        alone[name] = nonzero(model, seed, case.strong)(**one).logits
    model = build(case, family)
    for seed, (name, method) in enumerate(made.items()):
        torch.manual_seed(seed)
        method.attach(model, name)  # beside one that has been trained it starts as it would alone
        begun = zip(model._coursekit.parameters[name], starts[name], strict=True)
        assert all(torch.equal(parameter, start) for parameter, start in begun)
        nonzero(model, seed, case.strong)
    assert torch.equal(model(**one).logits, alone["product"])
    for name in made:
        made["film"].save(model, tmp_path / name, name)  # settings are those that were attached
        reordered(tmp_path / name)
        again = methods.from_checkpoint(tmp_path / name).load(build(case, family), tmp_path / name, "third")
        assert torch.equal(again(**one).logits, alone[name])
    trained = model._coursekit.parameters
    assert not any(p.requires_grad for p in trained["film"]) and all(p.requires_grad for p in trained["product"])
    with torch.no_grad():  # what is taken off must be gone, not be what comes back
        for parameter in trained["film"]:
            parameter.fill_(3)
    methods.remove(model, "film")
    assert list(trained) == ["product"] and torch.equal(model(**one).logits, alone["product"])
    methods.from_checkpoint(tmp_path / "product").load(model, tmp_path / "product", "film")
    assert torch.equal(model(**one).logits, alone["product"])
    methods.remove(model, "product")
    assert torch.equal(methods.activate(model, "film")(**one).logits, alone["product"])
    count = sum(p.numel() for p in model._coursekit.parameters["film"])
    head = sum(p.numel() for n, p in model.named_parameters() if ".copies.film" in n)
    assert count - head == methods.attached(model)["film"].count(model.config)
    methods.detach(model)
    assert torch.equal(model(**one).logits, build(case, family)(**one).logits)


def reordered(folder) -> None:
    r"""The checkpoint in `folder` with its tensors, and the entries of its config, in another order."""
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors = load_file(file)
    save_file({key: tensors[key].contiguous() for key in reversed(tensors)}, file)
    config.write_text(json.dumps(dict(reversed(json.loads(config.read_text()).items()))))


@once
def test_a_checkpoint_of_another_model_changes_nothing(case, family, tmp_path):
    method = case.make()
    wider = {"gpt2": {"n_embd": 96}}.get(family, {"hidden_size": 96})
    wider |= {"word_embed_proj_dim": 96} if family == "opt" else {}
    method.save(method.attach(build(case, family, **wider)), tmp_path)
    model, fresh = attach(case, family), build(case, family)
    for target, name in ((model, "default"), (model, "third"), (fresh, "default")):
        with refused("is of another model", target):
            method.load(target, tmp_path, name)


@once
def test_a_copy_of_the_model_stands_on_its_own(case, family):
    model, one = attach(case, family), tiny.batch()
    before = model(**one).logits
    twin = copy.deepcopy(model)
    assert torch.equal(twin(**one).logits, before)
    nonzero(twin, seed=9)
    assert not torch.equal(twin(**one).logits, before)
    methods.activate(twin, None)
    assert torch.equal(model(**one).logits, before)
    case.make().detach(twin)
    assert torch.equal(twin(**one).logits, build(case, family)(**one).logits)
    assert torch.equal(model(**one).logits, before)


@twice
def test_folding_gives_the_same_answers_or_says_that_it_cannot(case, family):
    method, one = case.make(), labelled(family)
    model = nonzero(method.attach(build(case, family)))
    beside = model(**one).logits
    if not case.folds:
        with pytest.raises(CourseError, match="does not fold into the weights"):
            method.merge(model)
        assert torch.equal(model(**one).logits, beside)
        return
    method.merge(model)
    # A layer in 4 bits comes out of it dense.
    kinds = [
        [type(m.dense()) if isinstance(m, Linear4bit) else type(m) for m in one_model.modules()]
        for one_model in (model, build(case, family))
    ]
    assert kinds[0] == kinds[1]
    torch.testing.assert_close(model(**one).logits, beside, atol=1e-4, rtol=1e-4)
    with pytest.raises(CourseError, match="merged already"):
        method.merge(model)
    methods.unmerge(model)
    assert torch.equal(model(**one).logits, beside)
    with pytest.raises(CourseError, match="nothing is merged"):
        methods.unmerge(model)


@once
def test_while_one_is_folded_in_nothing_is_done_to_the_others(case, family, tmp_path):
    if not case.folds:
        pytest.skip("does not fold")
    method, model, one, alone = case.make(), build(case, family), tiny.batch(), {}
    for seed, name in enumerate(("film", "product")):
        alone[name] = nonzero(method.attach(model, name), seed)(**one).logits
    method.save(model, tmp_path / "saved")
    method.merge(model, "film")
    for attempt in (
        lambda: methods.remove(model, "film"),
        lambda: methods.remove(model, "product"),
        lambda: method.save(model, tmp_path / "empty"),
        lambda: method.load(model, tmp_path / "saved", "film"),
        lambda: method.load(model, tmp_path / "saved", "third"),
        lambda: methods.activate(model, "product"),
        lambda: methods.disabled(model).__enter__(),
        lambda: methods.mixed_batch(model, ["film"] * 3).__enter__(),
    ):
        with pytest.raises(CourseError, match=r"call unmerge\(model\)"):
            attempt()
    assert not (tmp_path / "empty").exists()
    methods.unmerge(model)
    for name in ("film", "product"):
        assert torch.equal(methods.activate(model, name)(**one).logits, alone[name])


@once
def test_attaching_twice_and_using_it_unattached_are_explained(case, family, tmp_path):
    method, model = case.make(), build(case, family)
    name = type(method).__name__
    for attempt in (method.detach, method.merge, lambda m: method.save(m, tmp_path)):
        with pytest.raises(CourseError, match=f"{name} is not attached to this model; call method.attach"):
            attempt(model)
    method.attach(model)
    with pytest.raises(CourseError, match="already has an adapter named 'default'"):
        method.attach(model)
    with pytest.raises(CourseError, match=f"already carries {name}|changes the base itself"):
        methods.FullFineTuning().attach(model, "other")
    assert list(tmp_path.iterdir()) == []


@by_method
def test_an_attach_that_fails_half_way_leaves_no_trace(case, monkeypatch):
    def full_memory(*args):
        raise MemoryError

    for model in (build(case, case.families[-1]), attach(case, case.families[-1])):
        before = state(model)
        with monkeypatch.context() as patched, pytest.raises(MemoryError):
            patched.setattr(Method, "_insert_heads", full_memory)
            case.make().attach(model, "product")
        assert state(model) == before


@own("attach")
def test_what_a_method_cannot_attach_to_or_be_called_is_said_in_a_line(case):
    model, method = build(case, case.families[-1]), case.make()
    for name in ("train", "keys", "type", "two words", "my.adapter", ""):
        with refused(rf"^adapter name {name!r} is .*'$", model):
            method.attach(model, name)
    with pytest.raises(CourseError, match="attaches to a model of transformers, .* this is a Linear$"):
        method.attach(nn.Linear(3, 3))


def anew(path: Path, content: bytes) -> None:
    r"""Write `path` as a new file: for one that is written over, ext4 waits for the disk."""
    path.unlink()
    path.write_bytes(content)


@own("load")
def test_a_damaged_checkpoint_is_said_in_a_line_and_changes_nothing(case, tmp_path):
    family, method = case.families[-1], case.make()
    method.save(attach(case, family), tmp_path)
    model, fresh = attach(case, family, seed=5), build(case, family)
    config, tensors = (tmp_path / name for name in ("adapter_config.json", "adapter_model.safetensors"))
    for path, content in [
        *((config, text) for text in (b"[1, 2]", b"null", b"{", b'{"r": "\xe9"}', b"")),
        *((tensors, text) for text in (b"", b"no tensors", tensors.read_bytes()[:-10])),
    ]:
        good = path.read_bytes()
        anew(path, content)
        for attempt in (
            lambda: method.load(model, tmp_path),
            lambda: method.load(fresh, tmp_path),
            lambda: type(method).from_checkpoint(tmp_path),
        ):
            with refused(r"^the checkpoint in .* is damaged \(.*\); save it again$", model, fresh):
                attempt()
        anew(path, good)


OTHER_SHAPE = "there and .* here|is damaged|is of another model|holds no tensor|was trained with"
#: What happens to a tensor of a checkpoint, and what is said then.
DAMAGE = {
    "NaN": (lambda t: t * torch.nan, "holds NaN or infinity"),
    "infinite": (lambda t: t + torch.inf, "holds NaN or infinity"),
    "integer": (lambda t: t.long(), "holds int64, not real numbers"),
    "flags": (lambda t: t > 0, "holds bool, not real numbers"),
    "complex": (lambda t: t.to(torch.complex64), "holds complex64, not real numbers"),
    "longer": (lambda t: torch.cat((t, t[:1])), OTHER_SHAPE),
    "turned": (lambda t: t.mT.contiguous() if t.dim() > 1 and t.shape != t.mT.shape else t[None], OTHER_SHAPE),
    "gone": (lambda t: None, OTHER_SHAPE),
}


@on_dense
def test_a_damaged_tensor_is_refused_and_changes_nothing(case, tmp_path):
    family, method = case.families[-1], case.make()
    method.save(attach(case, family), tmp_path)
    config, tensors = interop.read(tmp_path)
    numbers = sorted(key for key, value in tensors.items() if value.is_floating_point() and value.dim())
    model, fresh = attach(case, family, seed=5), build(case, family)
    before = model(**tiny.batch()).logits
    for damage, (change, said) in DAMAGE.items():
        for key in {numbers[0], numbers[-1]}:
            changed = tensors | {key: change(tensors[key])}
            interop.write(tmp_path / damage, config, {k: t for k, t in changed.items() if t is not None})
            for target in (model, fresh):
                with pytest.raises(CourseError, match=said) as error:
                    methods.from_checkpoint(tmp_path / damage).load(target, tmp_path / damage)
                assert "\n" not in str(error.value)
            assert methods.attached(fresh) == {} and hooks(fresh) == 0
    assert torch.equal(model(**tiny.batch()).logits, before)


@by_method
def test_a_size_that_no_memory_holds_is_refused_before_anything_is_made(case, tmp_path):
    family, method = case.families[-1], case.make()
    method.save(attach(case, family), tmp_path)
    file, fresh = tmp_path / "adapter_config.json", build(case, family)
    good, one = file.read_text(), tiny.batch()
    before = fresh(**one).logits

    def enlarged(settings: dict) -> Iterable[dict]:
        for key, value in settings.items():
            if isinstance(value, int) and not isinstance(value, bool):
                yield settings | {key: 10**12}
            if isinstance(value, dict):
                yield from (settings | {key: inner} for inner in enlarged(value))

    for settings in enlarged(json.loads(good)):
        anew(file, json.dumps(settings).encode())
        with contextlib.suppress(CourseError):  # some say nothing about a size
            methods.detach(methods.from_checkpoint(tmp_path).load(fresh, tmp_path))
        assert methods.attached(fresh) == {} and torch.equal(fresh(**one).logits, before)


@on_dense
def test_a_config_that_makes_no_sense_is_refused_in_a_line_or_changes_nothing(case, tmp_path):
    family, method, one = case.families[-1], case.make(), tiny.batch()
    expected = attach(case, family)
    method.save(expected, tmp_path)
    fresh, file = build(case, family), tmp_path / "adapter_config.json"
    settings = json.loads(file.read_text())
    for key in settings:
        for value in ({"a": 1}, "no such", -1.5):
            anew(file, json.dumps(settings | {key: value}).encode())
            try:
                methods.from_checkpoint(tmp_path).load(fresh, tmp_path)
            except CourseError as error:
                assert "\n" not in str(error) and methods.attached(fresh) == {}
            else:
                assert torch.equal(fresh(**one).logits, expected(**one).logits), (key, value)
                methods.detach(fresh)


@by_method
def test_a_setting_that_a_checkpoint_does_not_have_is_named(case, tmp_path):
    family, method, asked = case.families[-1], case.make(), []
    method.save(attach(case, family), tmp_path)
    file = tmp_path / "adapter_config.json"
    settings = json.loads(file.read_text())
    for key in settings:
        anew(file, json.dumps({k: v for k, v in settings.items() if k != key}).encode())
        try:
            type(method).from_checkpoint(tmp_path)
        except CourseError as error:
            asked.append(key)
            wanted = "this checkpoint holds None, not" if key == "peft_type" else f"does not say {key!r}"
            assert wanted in str(error) and "\n" not in str(error)
    assert "peft_type" in asked and len(asked) > 1


@by_method
def test_a_checkpoint_does_not_load_into_an_adapter_of_another_method(case, tmp_path):
    family = case.families[-1]
    other = methods.IA3() if isinstance(case.make(), methods.LoRA) else methods.LoRA(r=2)
    other.save(other.attach(build(case, family)), tmp_path)
    model = attach(case, family)
    with refused(f"'default' is a {type(case.make()).__name__}.*, not a", model):
        other.load(model, tmp_path)


def variations(case: Case) -> Iterable[Method]:
    r"""The method with one setting as `case.other()` has it, and with all of them."""
    method, other = case.make(), case.other()
    if isinstance(method, methods.Hybrid) or not isinstance(method, type(other)):
        return
    for field in dataclasses.fields(other):
        if field.init and getattr(method, field.name) != getattr(other, field.name):
            with contextlib.suppress(CourseError):  # some settings come in twos
                yield dataclasses.replace(method, **{field.name: getattr(other, field.name)})
    yield other


@on_dense
def test_a_checkpoint_of_other_settings_is_refused_or_answers_as_it_did(case, tmp_path):
    family, method, refusals = tiny.Awkward(case.families[-1]), case.make(), 0
    model, one = attach(case, family), tiny.batch()
    method.save(model, tmp_path)
    for other in variations(case):
        fresh = build(case, family)
        try:
            other.load(fresh, tmp_path)
        except CourseError as error:
            refusals += 1
            assert "\n" not in str(error) and methods.attached(fresh) == {} and hooks(fresh) == 0
            assert re.search("trained with .*from_checkpoint|another model|other targets|learners|at most", str(error))
        else:
            assert torch.equal(fresh(**one).logits, model(**one).logits), other
    assert refusals or not list(variations(case))


# settings -------------------------------------------------------------------------------------------------

#: One of every method that has settings: not those that `cases.py` makes of one, nor a hybrid, whose parts have them.
MADE = [*(case.make() for case in CASES), methods.ByType(), methods.SelectColumns(), methods.CompacterPlus()]
EVERY_KIND = {type(m): m for m in MADE if type(m).__name__ in methods.__all__ and type(m) is not methods.Hybrid}


def by_kind(every: Iterable[Method]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", list(every), ids=lambda method: type(method).__name__)


#: Settings that are names of modules, and those that may be 0 or below.
NAMES = ("targets", "feedforward", "exclude", "modules_to_save")
NOT_POSITIVE = ("seed", "dropout", "pruned", "layers", "placeholder", "init_ids", "blocks", "d_initial")


@by_kind(EVERY_KIND.values())
def test_settings_that_make_no_sense_are_refused_in_a_line(method):
    for field in (f for f in dataclasses.fields(method) if f.init):
        nonsense = [object(), math.nan]
        nonsense += [] if field.name == "d_initial" else [-1.5]  # which has any sign
        nonsense += [] if field.type == "bool" else [True]
        nonsense += [5, ("query", 1)] if field.name in NAMES else ["no such"]
        nonsense += [1] if field.type == "bool" else []
        number = re.match("int|float|Which", str(field.type)) and field.name not in NOT_POSITIVE
        nonsense += [-3] if number else []
        nonsense += [0] if number and not isinstance(method, methods.AdapterDrop) else []
        for value in nonsense:
            with pytest.raises(CourseError) as error:
                dataclasses.replace(method, **{field.name: value})
            said = str(error.value)
            assert "\n" not in said and (field.name.split("_")[0] in said or repr(value) in said), (field.name, value)


@by_kind(method for method in EVERY_KIND.values() if hasattr(method, "targets"))
def test_a_target_that_names_nothing_lists_the_candidates_and_touches_nothing(method):
    model, more = tiny.model("bert"), {"feedforward": ()} if isinstance(method, methods.IA3) else {}
    for targets in ("no_such", ("LayerNorm" if isinstance(method, methods.NormTuning) else "query", "no_such")):
        wrong = dataclasses.replace(method, targets=targets, **more)
        for attempt in (wrong.attach, lambda model, wrong=wrong: wrong.count(model.config)):
            with pytest.raises(CourseError, match="'no_such' matches no module of this model; candidates: ."):
                attempt(model)
    assert methods.attached(model) == {} and all(p.requires_grad for p in model.parameters())


# generation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])
@writing
def test_generating_gives_the_tokens_of_the_whole_sequence_computed_anew(case, family, cache):
    model, rows = attach(case, family, scale=case.strong, **lively(family)), texts(9, 5, 7)
    written = writes(model, rows, new=6, use_cache=cache)
    assert len(set(sum(written, []))) > 1
    with torch.no_grad(), methods.disabled(model):
        assert written != [step_by_step(model, row, 6) for row in rows]


@writing
def test_one_generation_serves_several_adapters(case, family):
    model = build(case, family, **lively(family))
    for seed, name in enumerate(("film", "product")):
        nonzero(case.make().attach(model, name), seed, case.strong)
    writes(model, tiny.batch(3, 8)["input_ids"].tolist(), ["product", "film", None])


@with_cache
def test_generation_goes_on_from_the_cache_of_an_earlier_one(case, family):
    model, new = attach(case, family, scale=case.strong, **lively(family)), 4
    model.generation_config.eos_token_id = None
    settings = dict(max_new_tokens=new, do_sample=False, pad_token_id=1, return_dict_in_generate=True)
    first, more = tiny.batch(2, 9)["input_ids"], tiny.batch(2, 3, seed=1)["input_ids"]
    with torch.no_grad():
        said = model.generate(input_ids=first, attention_mask=torch.ones_like(first), **settings)
        dialogue = torch.cat([said.sequences, more], dim=1)
        answer = model.generate(
            input_ids=dialogue, attention_mask=torch.ones_like(dialogue), cache=said.cache, **settings
        )
        assert answer.sequences[:, dialogue.shape[1] :].tolist() == [
            step_by_step(model, row.tolist(), new) for row in dialogue
        ]


@pytest.mark.parametrize("beams", [1, 3], ids=["drafts", "beams"])
@with_cache
def test_other_ways_to_search_are_the_same_with_and_without_a_cache(case, family, beams):
    model = attach(case, family, scale=case.strong, **lively(family))
    model.generation_config.eos_token_id = None
    ids = tiny.batch(1 if beams == 1 else 2, 9)["input_ids"]
    settings = dict(attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=1)
    # Drafts copied from the text are tried several tokens at once and taken back from the cache where they fail.
    way = dict(prompt_lookup_num_tokens=3) if beams == 1 else dict(num_beams=beams)
    with torch.no_grad():
        plain = settings | (dict(num_beams=beams) if beams > 1 else {}) | dict(use_cache=False)
        assert torch.equal(model.generate(ids, **settings, **way), model.generate(ids, **plain))


# what cannot work -----------------------------------------------------------------------------------------


@by_method
def test_saving_the_whole_model_says_that_nothing_can_read_it(case, tmp_path):
    model = case.make().attach(tiny.model(case.families[0]))
    with pytest.warns(UserWarning, match=r"method\.save\(model, folder\) for the adapter, detach"):  # noqa: SIM117
        with contextlib.suppress(RuntimeError):  # transformers refuses what several blocks share
            model.save_pretrained(tmp_path / "with")
    methods.detach(model)
    assert "save_pretrained" not in model.__dict__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save_pretrained(tmp_path / "without")
    if case.quantized:
        pytest.skip("what was written is in 4 bits: tests/qlora/test_model.py reads it")
    again = type(model).from_pretrained(tmp_path / "without")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())


@own("attach")
def test_a_model_with_offloaded_weights_is_refused_untouched(case):
    model = build(case, case.families[0])
    first = model.get_input_embeddings()
    first.weight = nn.Parameter(first.weight.to("meta"))
    first._hf_hook = object()  # Accelerate's mark of a module whose weights come when it is called
    with refused("offloaded.*load it onto one device", model):
        case.make().attach(model)

r"""Bottleneck adapters against the `adapters` library, against formulas written out, and AdapterDrop by itself.

What every method promises (start, freezing, saving, rows, generation, ...) is proved in `test_every_method.py`.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import pytest
import relatives
import tiny
import torch
import torch.nn.functional as F
from attached import labelled, nonzero, train
from stored import FIXTURES, Stored
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from coursekit import adapterhub, counts, methods
from coursekit.architecture import describe
from coursekit.errors import CourseError
from coursekit.methods import AdapterDrop, HoulsbyAdapter, LinAdapter, ParallelAdapter, PfeifferAdapter
from coursekit.methods.adapters import Bottleneck, bottlenecks
from coursekit.methods.adapters.bottleneck import ACTIVATIONS
from coursekit.methods.adapters.passes import PassStart
from coursekit.methods.adapters.placement import AdapterSite
from coursekit.methods.adapters.places import blocks
from coursekit.methods.adapters.trained_norms import SwitchedNorm
from coursekit.methods.mechanism.method import Method

#: Of the folders there, those that `adapterhub` reads; hybrids have tests of their own.
STORED = sorted(
    str(p.parent.relative_to(FIXTURES))
    for p in FIXTURES.glob("*/*/adapter_config.json")
    if p.parent.name not in ("mam", "unipelt", "compacter", "compacterpp")
)
KINDS = (HoulsbyAdapter, PfeifferAdapter, ParallelAdapter, LinAdapter)
FAMILIES = (*tiny.FAMILIES, *relatives.RELATIVES)
OPT_POST_NORM = dict(do_layer_norm_before=False, word_embed_proj_dim=16)  # the shape of OPT-350M

each_kind = pytest.mark.parametrize("kind", KINDS)
each_stored = pytest.mark.parametrize("stored", STORED)


def alive(method: Method, model: nn.Module, name: str = "default", seed: int = 3) -> nn.Module:
    r"""`model` with the method on it, its parameters away from their start."""
    return nonzero(method.attach(model, name), seed)


def now(model: nn.Module):
    r"""What the sites of `model` know of the last forward pass."""
    return next(m for m in model.modules() if isinstance(m, PassStart)).now


def answers(model: nn.Module, one: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**one).logits


# the library ----------------------------------------------------------------------------------------------


@each_stored
def test_the_library_s_adapters_answer_the_same_here_to_the_bit(stored):
    r"""Bit-equal, where bare model and bare bottleneck have the bits of the processor that made the fixtures."""
    stored = Stored(stored)
    model = adapterhub.load(stored.model(), stored.folder)
    stored.assert_same(model, stored.case, exactly=stored.has_these_bits())
    with methods.disabled(model):
        stored.assert_same(model, "plain", exactly=stored.has_these_bits())


def test_what_the_stored_cases_are():
    families = Counter(stored.split("/")[0] for stored in STORED)
    assert families == {"bert": 5, "gpt2": 5, "llama": 3, "opt": 1, "roberta": 3}
    read = {stored.split("/")[1]: adapterhub.read_method(FIXTURES / stored) for stored in STORED}
    assert read == {
        "houlsby": HoulsbyAdapter(r=3, activation="swish"),
        "pfeiffer": PfeifferAdapter(r=3),
        "parallel": ParallelAdapter(r=3),
        "learned_scale": ParallelAdapter(r=3, scaling="learned"),
        "drop": AdapterDrop(PfeifferAdapter(r=3), n=1),
    }


# the formulas ---------------------------------------------------------------------------------------------


def bert_block(block: nn.Module, x: torch.Tensor, sites: dict[str, Bottleneck]) -> torch.Tensor:
    r"""One block of BERT with the adapters of `sites`, in dense formulas."""

    def linear(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x @ layer.weight.T + layer.bias

    def norm(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        z = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + layer.eps).sqrt()
        return z * layer.weight + layer.bias

    def A(at: str, x: torch.Tensor) -> torch.Tensor:
        return linear(sites[at].up, F.relu(linear(sites[at].down, x)))

    attention, (b, s, d) = block.attention.self, x.shape
    heads = tiny.HEADS
    q, k, v = (
        linear(layer, x).view(b, s, heads, d // heads).transpose(1, 2)  # (b, s, d) -> (b, heads, s, d_head)
        for layer in (attention.query, attention.key, attention.value)
    )
    weights = torch.softmax(q @ k.transpose(2, 3) / (d // heads) ** 0.5, dim=-1)
    h = linear(block.attention.output.dense, (weights @ v).transpose(1, 2).reshape(b, s, d))
    if "houlsby_attention" in sites:
        h = h + A("houlsby_attention", h)
    x = norm(block.attention.output.LayerNorm, h + x)

    h = linear(block.output.dense, F.gelu(linear(block.intermediate.dense, x)))
    if "houlsby_ffn" in sites:
        h = h + A("houlsby_ffn", h)
    if "pfeiffer" in sites:
        h = h + A("pfeiffer", norm(block.output.LayerNorm, h + x))
    if "parallel" in sites:
        h = h + 4.0 * A("parallel", x)
    y = norm(block.output.LayerNorm, h + x)
    return y + A("lin", norm(sites["lin"].norm, y)) if "lin" in sites else y


@each_kind
def test_one_block_of_bert_written_out(kind):
    model = alive(kind(r=4, activation="relu"), tiny.encoder("bert", dtype=torch.float64))
    block = model.bert.encoder.layer[1]
    x = torch.randn(2, 7, tiny.D_MODEL, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sites = {
        path.rpartition(".")[2]: bottleneck
        for path, bottleneck in bottlenecks(model, "default").items()
        if ".layer.1." in path
    }
    assert set(sites) == set(kind.sites)
    with torch.no_grad():
        expected = bert_block(block, x, sites)
        torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=0)
        assert not torch.allclose(expected, bert_block(block, x, {}), atol=1e-2)


#: Where an attention and a feed-forward answer, and the norms after each addition.
PARTS = {
    "gpt2": ("attn", "mlp", ()),
    "opt": ("self_attn", "fc2", ()),
    "opt-350m": ("self_attn", "fc2", ("self_attn_layer_norm", "final_layer_norm")),
    "llama": ("self_attn", "mlp", ()),
    "mistral": ("self_attn", "mlp", ()),
    "qwen2": ("self_attn", "mlp", ()),
}


@each_kind
@pytest.mark.parametrize("family", PARTS)
def test_one_block_of_a_decoder_from_its_own_parts(family, kind):
    r"""What a block adds up, given what its own attention and feed-forward answer."""
    model = tiny.model("opt", **OPT_POST_NORM) if family == "opt-350m" else relatives.model(family)
    alive(kind(r=4), model)
    path, block = list(blocks(model).items())[1]
    said = {}

    def listen(key: str, module: nn.Module) -> None:
        r"""To what the module answers by itself, before a hook changes it."""
        forward = module.forward

        def spoken(*args, **kwargs):
            out = forward(*args, **kwargs)
            said[key] = out[0] if isinstance(out, tuple) else out
            return out

        module.forward = spoken

    attention, ffn, after = PARTS[family]
    listen("attention", block.get_submodule(attention))
    listen("ffn", block.get_submodule(ffn))
    block.register_forward_pre_hook(lambda _, args: said.update(x=args[0]))
    block.register_forward_hook(
        lambda _, args, out: said.update(y=out)
    )  # behind ours: sees the changed answer
    with torch.no_grad():
        model(**tiny.batch())
    x = said["x"]
    norm_1, norm_2 = (block.get_submodule(n) for n in after) if after else (nn.Identity(), nn.Identity())
    A = {
        p.rpartition(".")[2]: site for p, site in bottlenecks(model, "default").items() if p.startswith(path)
    }
    assert set(A) == set(kind.sites)
    with torch.no_grad():
        h = said["attention"]
        x = norm_1(x + h + (A["houlsby_attention"](h) if "houlsby_attention" in A else 0))
        h = said["ffn"].view(x.shape)  # OPT: (batch * seq, d) -> (batch, seq, d)
        change = {
            "houlsby_ffn": lambda: A["houlsby_ffn"](h),
            "pfeiffer": lambda: A["pfeiffer"](norm_2(h + x)),
            "parallel": lambda: A["parallel"](x),
        }
        h = h + sum(make() for key, make in change.items() if key in A)
        y = norm_2(x + h)
        y = y + A["lin"](y) if "lin" in A else y
    torch.testing.assert_close(said["y"], y, atol=2e-6, rtol=1e-5)
    assert any(bottleneck(x).abs().max() > 0.1 for bottleneck in A.values())


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_the_scale_of_a_parallel_adapter_scales_it(learned):
    x = torch.randn(3, tiny.D_MODEL, generator=torch.Generator().manual_seed(0))
    made, logits = {}, {}
    for s in (1.0, 2.0):
        torch.manual_seed(0)
        model = ParallelAdapter(r=4, init="bert", scaling="learned" if learned else s).attach(tiny.encoder())
        for bottleneck in bottlenecks(model, "default").values():
            if learned:
                assert bottleneck.scaling.item() == 1  # its start
                nn.init.constant_(bottleneck.scaling, s)
            made.setdefault(s, []).append(bottleneck(x))
        logits[s] = answers(model, tiny.batch())
    assert all(torch.equal(2 * single, double) for single, double in zip(made[1.0], made[2.0], strict=True))
    assert not torch.equal(logits[1.0], logits[2.0])


@pytest.mark.parametrize("activation, expected", [
    ("relu", lambda z: z.clamp(min=0)),
    ("gelu", lambda z: z * 0.5 * (1 + torch.erf(z / 2**0.5))),
    ("swish", lambda z: z / (1 + torch.exp(-z))),
    ("tanh", lambda z: (torch.exp(2 * z) - 1) / (torch.exp(2 * z) + 1)),
    ("identity", lambda z: z),
])  # fmt: skip
def test_activations(activation, expected):
    bottleneck, x = (
        Bottleneck(6, 4, activation),
        torch.randn(5, 6, generator=torch.Generator().manual_seed(0)),
    )
    torch.testing.assert_close(bottleneck(x), bottleneck.up(expected(bottleneck.down(x))))
    assert len(ACTIVATIONS) == 5


def test_initialisations():
    torch.manual_seed(0)
    made = {init: Bottleneck(300, 200, init=init) for init in ("bert", "houlsby", "zero")}
    assert all((m.down.bias == 0).all() and (m.up.bias == 0).all() for m in made.values())
    for W in (made["bert"].down.weight, made["bert"].up.weight):
        assert abs(W.std().item() - 0.02) < 2e-4 and W.abs().max() > 0.06  # a tail that nothing cuts
    for W in (made["houlsby"].down.weight, made["houlsby"].up.weight):
        # a normal cut at two standard deviations has 0.8796 of the uncut one's
        assert W.abs().max() <= 2e-3 and abs(W.std().item() - 0.8796e-3) < 1e-5
    assert (made["zero"].up.weight == 0).all() and made["zero"].down.weight.std() > 0.01


def test_defaults_are_the_papers_where_they_are_said_to_be():
    assert HoulsbyAdapter() == HoulsbyAdapter(r=64, activation="gelu", init="houlsby", train_norms=False)
    assert PfeifferAdapter() == PfeifferAdapter(r=768 // 16, activation="relu", init="bert")
    assert ParallelAdapter() == ParallelAdapter(r=64, activation="relu", init="zero", scaling=4.0)
    assert LinAdapter() == LinAdapter(r=64, activation="relu", init="bert")


# counts ---------------------------------------------------------------------------------------------------

SETTINGS = [
    HoulsbyAdapter(r=3),
    HoulsbyAdapter(r=5, train_norms=True),
    PfeifferAdapter(r=3, train_norms=True),
    ParallelAdapter(r=4),
    ParallelAdapter(r=4, scaling="learned", train_norms=True),
    LinAdapter(r=1),
    LinAdapter(r=7, train_norms=True),
    AdapterDrop(HoulsbyAdapter(r=3, train_norms=True), n=0),
    AdapterDrop(LinAdapter(r=3, train_norms=True), n=1),
    AdapterDrop(PfeifferAdapter(r=3, train_norms=True), n=2),
    AdapterDrop(ParallelAdapter(r=3, scaling="learned"), robust=True),
]


def on_meta(family: str, **changes) -> nn.Module:
    config = {"mistral": "llama", "qwen2": "llama"}.get(family, family)
    config = tiny.config(config, **changes)
    if family in relatives.RELATIVES:
        config = relatives.model(family).config
    with torch.device("meta"):
        return AutoModel.from_config(config)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", SETTINGS, ids=repr)
def test_closed_form_is_what_is_counted(method, family):
    model = on_meta(family)
    expected = method.count(model.config)
    assert methods.trainable(method.attach(model)) == expected
    assert all(p.is_meta for p in model.parameters())


@each_kind
def test_closed_form_for_the_shape_of_opt_350m(kind):
    method = kind(r=3, train_norms=True)
    model = on_meta("opt", **OPT_POST_NORM)
    assert methods.trainable(method.attach(model)) == method.count(model.config)


LARGE = {
    "GPT-2 M": lambda: AutoConfig.for_model("gpt2", n_embd=1024, n_layer=24, n_head=16),
    "GPT-2 L": lambda: AutoConfig.for_model("gpt2", n_embd=1280, n_layer=36, n_head=20),
    "RoBERTa base": lambda: AutoConfig.for_model("roberta"),
    "RoBERTa large": lambda: AutoConfig.for_model(
        "roberta", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}  # fmt: skip


@pytest.mark.parametrize("model, method, published", [
    ("GPT-2 M", LinAdapter(r=6), 368_784),
    ("GPT-2 M", LinAdapter(r=224), 11_089_152),
    ("GPT-2 L", LinAdapter(r=8), 875_808),
    ("GPT-2 L", LinAdapter(r=248), 23_002_848),
    ("GPT-2 M", HoulsbyAdapter(r=112), 11_064_576),
    ("RoBERTa large", HoulsbyAdapter(r=8), 835_968),
    ("RoBERTa large", PfeifferAdapter(r=16), 811_392),
    ("RoBERTa base", AdapterDrop(PfeifferAdapter(r=48), n=0), 894_528),
    ("RoBERTa base", AdapterDrop(PfeifferAdapter(r=48), n=5), 894_528 * 7 // 12),
])  # fmt: skip
def test_modules_attached_on_the_meta_device_have_the_tabled_counts(model, method, published):
    with torch.device("meta"):
        built = AutoModel.from_config(LARGE[model]())
    assert methods.trainable(method.attach(built)) == published == method.count(built.config)


# norms ----------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("family", FAMILIES)
def test_each_adapter_has_norms_of_its_own_and_the_base_keeps_its(family, kind):
    model = relatives.model(family)
    one = {"labels": labelled(family)["labels"]} if family in tiny.ENCODERS else {}
    before, plain = {k: v.clone() for k, v in model.state_dict().items()}, answers(model, tiny.batch())
    for name in ("film", "product"):
        kind(r=3, init="zero", train_norms=True).attach(model, name)
        assert torch.equal(answers(model, tiny.batch()), plain)  # copies start as the norms they replace
    methods.activate(model, "film")
    batch = tiny.batch()
    train(model.train(), [batch | (one or {"labels": batch["input_ids"]})] * 3, lr=0.01)
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, SwitchedNorm) and m.norms]
    arch = describe(model.config)
    assert len(norms) == arch.n_layers * len(arch.norms) + len(arch.outer_norms)
    for norm in norms:
        assert not torch.equal(norm.norms["film"].weight, norm.base_layer.weight)
        assert torch.equal(norm.norms["product"].weight, norm.base_layer.weight)
    film, product = answers(model, batch), answers(methods.activate(model, "product"), batch)
    assert torch.equal(product, plain) and not torch.equal(film, plain)
    with methods.mixed_batch(model, ["film", None, "product"]):
        mixed = answers(model, batch)
    torch.testing.assert_close(mixed, torch.stack([film[0], plain[1], product[2]]), atol=1e-5, rtol=1e-5)
    methods.detach(model)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)


@each_kind
def test_norms_that_train_beside_norms_that_do_not(kind):
    r"""The hook that keeps a residual stands on a norm, which the second adapter puts a copy beside."""
    one, alone = tiny.batch(), {}
    for name, norms in (("plain", False), ("normed", True)):
        alone[name] = answers(alive(kind(r=3, train_norms=norms), tiny.decoder("opt"), name, int(norms)), one)
    model = tiny.decoder("opt")
    alive(kind(r=3), model, "plain", seed=0)
    alive(kind(r=3, train_norms=True), model, "normed", seed=1)
    for name, expected in alone.items():
        assert torch.equal(answers(methods.activate(model, name), one), expected)
    with methods.mixed_batch(model, ["normed", "plain", None]):
        mixed = answers(model, one)
    expected = torch.stack([alone["normed"][0], alone["plain"][1], answers(tiny.decoder("opt"), one)[2]])
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_norms_train_in_full_precision_on_a_sixteen_bit_base(family):
    model = tiny.model(family, dtype=torch.bfloat16)
    plain = answers(model, tiny.batch())
    HoulsbyAdapter(r=3, init="zero", train_norms=True).attach(model)
    trained = [p for n, p in model.named_parameters() if p.requires_grad and "classifier" not in n]
    assert {p.dtype for p in trained} == {torch.float32}
    logits = answers(model, tiny.batch())
    assert logits.dtype == torch.bfloat16 and torch.equal(logits, plain)


def test_norms_without_weights_cannot_train():
    model = tiny.decoder("opt", layer_norm_elementwise_affine=False)
    with pytest.raises(CourseError, match="no weights that could train: take train_norms=False"):
        HoulsbyAdapter(train_norms=True).attach(model)
    assert methods.attached(model) == {}
    HoulsbyAdapter().attach(model)


# how it is built in ---------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_recorded_hidden_states_are_the_changed_ones_whoever_came_first(family, kind):
    r"""transformers installs hooks of its own on the blocks when hidden states are first asked for."""
    first = tiny.model(family)
    first(**tiny.batch(), output_hidden_states=True)
    recorded = [
        alive(kind(r=3), model)(**tiny.batch(), output_hidden_states=True).hidden_states
        for model in (first, tiny.model(family))
    ]
    plain = tiny.model(family)(**tiny.batch(), output_hidden_states=True).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(*recorded, strict=True))
    assert torch.equal(recorded[0][0], plain[0]) and not torch.allclose(recorded[0][1], plain[1], atol=1e-3)


@each_kind
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_names_of_the_base_s_weights_stay_and_nothing_is_left_behind(family, kind):
    model = tiny.model(family)
    names = {n for n, _ in model.named_parameters()}
    alive(kind(r=3), model)
    model(**labelled(family)).loss.backward()
    assert all(module.res is None for module in model.modules() if isinstance(module, AdapterSite))
    renamed = names - {n for n, _ in model.named_parameters()}
    assert all("norm" in n or "ln_2" in n or "classifier" in n for n in renamed)
    saved = model.state_dict()
    assert len({v.data_ptr() for v in saved.values()}) == len(saved) - (
        family in tiny.DECODERS
    )  # a tied head
    methods.detach(model)
    assert {n for n, _ in model.named_parameters()} == names


def test_a_mixed_batch_of_another_size_where_the_feed_forward_sees_no_rows():
    model = alive(PfeifferAdapter(r=3), tiny.decoder("opt"), "film")
    # 3 x 10 tokens are also 2 x 15: the number of rows has to come from elsewhere
    with methods.mixed_batch(model, ["film"] * 2), pytest.raises(CourseError, match="given 2 .* has 3 rows"):
        model(**tiny.batch(3))


def test_two_tasks_two_adapters_one_base():
    r"""Each task trained with the other's adapter in place leaves both as if they had been alone."""
    tasks = {"film": 0, "product": 1}
    data = {
        name: [labelled("bert", seed=10 * i + 1) for i in range(j, 12, 2)] for j, name in enumerate(tasks)
    }
    quiet = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

    def start(model: nn.Module, name: str) -> None:
        torch.manual_seed(tasks[name])
        PfeifferAdapter(r=4).attach(model, name)

    alone = {}
    for name in tasks:
        model = tiny.encoder(**quiet)
        start(model, name)
        train(model.train(), data[name], lr=1e-2)
        alone[name] = answers(model.eval(), tiny.batch())
    together = tiny.encoder(**quiet)
    for name in tasks:
        start(together, name)
    for name in tasks:
        train(methods.activate(together.train(), name), data[name], lr=1e-2)
    together.eval()
    for name in tasks:
        assert torch.equal(answers(methods.activate(together, name), tiny.batch()), alone[name])
    with methods.mixed_batch(together, ["product", "film", None]):
        mixed = answers(together, tiny.batch())
    expected = [alone["product"][0], alone["film"][1], answers(tiny.encoder(**quiet), tiny.batch())[2]]
    torch.testing.assert_close(mixed, torch.stack(expected), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(alone["film"], alone["product"], atol=1e-3)


# AdapterDrop ----------------------------------------------------------------------------------------------

DEEP = {
    "bert": dict(num_hidden_layers=4), "roberta": dict(num_hidden_layers=4), "gpt2": dict(n_layer=4),
    "opt": dict(num_hidden_layers=4), "llama": dict(num_hidden_layers=4),
}  # fmt: skip


def deep(family: str = "bert", **changes) -> nn.Module:
    return tiny.model(family, **DEEP[family], **changes)


@each_kind
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_skipping_blocks_is_not_having_adapters_there(family, kind):
    r"""For each n: robust with n skipped = specialised for n, with the same weights; n = L: the bare base."""
    one, inner = tiny.batch(padded=True), kind(r=3)
    robust = alive(AdapterDrop(inner, robust=True), deep(family))
    whole = robust._coursekit.methods["default"]._learned(robust, "default")
    seen = []
    for n in range(5):
        special = AdapterDrop(inner, n=n).attach(deep(family))
        for key, value in special._coursekit.methods["default"]._learned(special, "default").items():
            value.data.copy_(whole[key])
        with methods.skipping(robust, n):
            seen.append(answers(robust, one))
        assert torch.equal(seen[-1], answers(special, one))
        carrying = [p for p, site in bottlenecks(special, "default").items()]
        assert len(carrying) == (4 - n) * len(kind.sites)
    assert torch.equal(answers(robust, one), seen[0])  # outside of `skipping`, and in eval mode: all of them
    assert len({tuple(logits.flatten().tolist()) for logits in seen}) == 5
    if family in tiny.DECODERS:  # a classifier has a trained head as well
        assert torch.equal(seen[4], answers(deep(family), one))


def test_the_backward_pass_of_the_specialised_stops_above_the_bare_blocks():
    model, reached = AdapterDrop(HoulsbyAdapter(r=3), n=2).attach(deep()), []

    def watch(number: int, out: torch.Tensor) -> None:
        if out.requires_grad:
            out.register_hook(lambda _: reached.append(number))

    for number, block in enumerate(model.bert.encoder.layer):
        block.register_forward_hook(lambda _, args, out, number=number: watch(number, out))
    model.train()(**labelled("bert")).loss.backward()
    assert sorted(set(reached)) == [2, 3]
    everywhere = HoulsbyAdapter(r=3).attach(deep())
    with methods.skipping(everywhere, 2):
        hidden = everywhere(**tiny.batch(), output_hidden_states=True).hidden_states
    assert [h.requires_grad for h in hidden] == [False, False, False, True, True]


@pytest.mark.parametrize(
    "n, expected", [(None, {0, 1, 2, 3}), (2, {0, 1, 2}), (4, {0, 1, 2, 3, 4}), (0, {0})]
)
def test_robust_training_draws_every_number_of_blocks_evenly(n, expected):
    model = AdapterDrop(PfeifferAdapter(r=2), n=n, robust=True).attach(deep()).train()
    torch.manual_seed(0)
    drawn = Counter()
    for _ in range(120):
        with torch.no_grad():
            model(**tiny.batch(1, 2))
        drawn[now(model).skipped] += 1
    assert set(drawn) == expected
    assert all(abs(times - 120 / len(expected)) < 20 for times in drawn.values())
    model.eval()(**tiny.batch(1, 2))
    assert now(model).skipped == 0


def test_robust_training_follows_the_seed_and_moves_what_it_reaches():
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        model = AdapterDrop(PfeifferAdapter(r=2), robust=True).attach(deep()).train()
        losses = train(model, [labelled("bert", seed=i) for i in range(8)], lr=1e-2)
        runs.append((losses, [p.detach().clone() for p in model.parameters()]))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))

    for n in (0, 2):
        with methods.skipping(model, n):  # held from outside: nothing is drawn
            model.zero_grad()
            model(**labelled("bert")).loss.backward()
        without = [p.grad is None for b in bottlenecks(model, "default").values() for p in b.parameters()]
        assert without == [True] * (4 * n) + [False] * (4 * (4 - n))


@pytest.mark.parametrize(
    "inner", [PfeifferAdapter(r=3), HoulsbyAdapter(r=3, train_norms=True), LinAdapter(r=3)]
)
@pytest.mark.parametrize("family", ["bert", "opt"])
def test_recomputed_activations_see_the_number_that_was_drawn(family, inner):
    gradients = []
    for checkpointing in (False, True):
        model = alive(AdapterDrop(inner, robust=True), deep(family)).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        drawn = []
        for seed in range(6):  # gradients of several steps are summed, as in accumulation
            model(**labelled(family, seed=seed)).loss.backward()
            drawn.append(now(model).skipped)
        assert len(set(drawn)) > 2
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_skipping_at_inference_costs_no_adapter_and_is_undone_after_an_error():
    model, calls = alive(HoulsbyAdapter(r=3), deep()), []
    for path, bottleneck in bottlenecks(model, "default").items():
        bottleneck.register_forward_hook(lambda *_, path=path: calls.append(path))
    with methods.skipping(model, 3):
        answers(model, tiny.batch())
    assert [c.split(".")[3] for c in calls] == ["3", "3"]
    with pytest.raises(ZeroDivisionError), methods.skipping(model, 4):
        raise ZeroDivisionError
    calls.clear()
    answers(model, tiny.batch())
    assert len(calls) == 8
    with methods.skipping(model, 1), methods.skipping(model, 4):
        pass
    assert now(model).held is None


def test_norms_inside_skipped_blocks_are_the_base_s():
    r"""What lies outside the blocks stays; with nothing trained there, all blocks skipped is the bare base."""
    model = alive(HoulsbyAdapter(r=3, train_norms=True), deep("llama"))
    final = next(m for p, m in model.named_modules() if p == "model.norm")
    with torch.no_grad():
        final.norms["default"].weight.copy_(final.base_layer.weight)
    with methods.skipping(model, 4):
        assert torch.equal(answers(model, tiny.batch()), answers(deep("llama"), tiny.batch()))
    with methods.skipping(model, 3):
        assert not torch.allclose(
            answers(model, tiny.batch()), answers(deep("llama"), tiny.batch()), atol=1e-3
        )


def test_adapters_of_two_kinds_with_blocks_left_out_on_one_base():
    one, alone = tiny.batch(), {}
    kinds = {"a": AdapterDrop(HoulsbyAdapter(r=3), n=3), "b": AdapterDrop(PfeifferAdapter(r=2), robust=True)}
    for seed, (name, method) in enumerate(kinds.items()):
        alone[name] = answers(alive(method, deep("opt"), name, seed), one)
    model = deep("opt")
    for seed, (name, method) in enumerate(kinds.items()):
        alive(method, model, name, seed)
    for name in kinds:
        assert torch.equal(answers(methods.activate(model, name), one), alone[name])
    with methods.mixed_batch(model, ["b", None, "a"]):
        mixed = answers(model, one)
    expected = torch.stack([alone["b"][0], answers(deep("opt"), one)[1], alone["a"][2]])
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)
    assert now(model).sampled == {"b": 3}
    methods.remove(model, "b")
    assert now(model).sampled == {}


def test_a_copy_of_the_model_skips_and_draws_on_its_own():
    model = alive(AdapterDrop(PfeifferAdapter(r=3), robust=True), deep("llama"))
    twin, one = copy.deepcopy(model), tiny.batch()
    whole = answers(model, one)
    with methods.skipping(twin, 4):
        assert torch.equal(answers(twin, one), answers(deep("llama"), one))
        assert torch.equal(answers(model, one), whole)
    assert torch.equal(answers(twin, one), whole)


@pytest.mark.parametrize("method", [
    AdapterDrop(HoulsbyAdapter(r=3, train_norms=True), n=1),
    AdapterDrop(ParallelAdapter(r=2, scaling=2.0), n=2, robust=True),
    AdapterDrop(LinAdapter(r=2, activation="tanh"), robust=True),
])  # fmt: skip
def test_a_checkpoint_of_adapter_drop_says_what_it_is(method, tmp_path):
    model = alive(method, deep())
    method.save(model, tmp_path)
    assert AdapterDrop.from_checkpoint(tmp_path) == method
    again = method.load(deep(), tmp_path)
    assert torch.equal(answers(again, tiny.batch()), answers(model, tiny.batch()))


# saving ---------------------------------------------------------------------------------------------------


@each_kind
def test_a_checkpoint_says_what_it_is_and_loads_only_into_what_fits(kind, tmp_path):
    method = kind(r=3, activation="tanh", init="bert", train_norms=True)
    model = alive(method, tiny.encoder())
    method.save(model, tmp_path)
    assert kind.from_checkpoint(tmp_path) == method
    assert torch.equal(
        answers(method.load(tiny.encoder(), tmp_path), tiny.batch()), answers(model, tiny.batch())
    )
    kind(r=3, activation="tanh", init="zero", train_norms=True).load(
        tiny.encoder(), tmp_path
    )  # any start will do
    other = next(k for k in KINDS if k is not kind)
    for wrong, said in [
        (kind(r=4, activation="tanh", train_norms=True), "trained with r=3, the method here has 4"),
        (
            kind(r=3, activation="relu", train_norms=True),
            "trained with activation=tanh, the method here has relu",
        ),
        (kind(r=3, activation="tanh"), "trained with train_norms=True, the method here has False"),
        (other(r=3), f"holds {kind.kind}, not {other.kind}"),
        (AdapterDrop(method, n=0), f"holds {kind.kind}, not ADAPTER_DROP"),
    ]:
        target = tiny.encoder()
        with pytest.raises(CourseError, match=said):
            wrong.load(target, tmp_path)
        assert methods.attached(target) == {}


def test_the_scale_is_part_of_a_checkpoint(tmp_path):
    method = ParallelAdapter(r=3, scaling=2.0)
    method.save(alive(method, tiny.encoder()), tmp_path)
    with pytest.raises(CourseError, match="trained with scaling=2.0, the method here has 4.0"):
        ParallelAdapter(r=3).load(tiny.encoder(), tmp_path)


def test_checkpoints_of_adapter_drop_with_other_settings(tmp_path):
    special = AdapterDrop(PfeifferAdapter(r=3), n=1)
    special.save(alive(special, deep()), tmp_path)
    for wrong, said in [
        (AdapterDrop(PfeifferAdapter(r=3), n=2), "trained with n=1, robust=False, the method here has n=2"),
        (AdapterDrop(PfeifferAdapter(r=4), n=1), "trained with r=3, the method here has 4"),
        (AdapterDrop(HoulsbyAdapter(r=3), n=1), "holds PFEIFFER, not HOULSBY"),
        (
            AdapterDrop(PfeifferAdapter(r=3), robust=True),
            "is of another model or of other targets: .* missing",
        ),
    ]:
        with pytest.raises(CourseError, match=said):
            wrong.load(deep(), tmp_path)


# AdapterHub -----------------------------------------------------------------------------------------------


@each_stored
def test_what_is_read_is_written_as_the_library_wrote_it(stored, tmp_path):
    r"""The library itself has read such folders: see `--read` in tests/fixtures/make_adapters.py."""
    stored = Stored(stored)
    model = adapterhub.load(stored.model(), stored.folder, stored.case)
    adapterhub.save(model, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        p.name for p in stored.folder.iterdir() if p.name != "adapter_interface.json"
    } | ({"pytorch_model_head.bin", "head_config.json"} if stored.family == "roberta" else set())
    for name in ("pytorch_adapter.bin", "pytorch_model_head.bin"):
        if (stored.folder / name).exists():
            ours, theirs = (torch.load(f / name, weights_only=True) for f in (tmp_path, stored.folder))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for name in ("adapter_config.json", "head_config.json"):
        if (stored.folder / name).exists():
            ours, theirs = (json.loads((f / name).read_text()) for f in (tmp_path, stored.folder))
            for entries in (
                theirs,
                theirs["config"] or {},
            ):  # how a bottleneck started is not written down here
                entries.pop("init_weights", None)
            inner = ours["config"] or {}
            assert inner.keys() - {"init_weights"} <= (theirs["config"] or {}).keys()
            theirs["config"] = theirs["config"] and {k: v for k, v in theirs["config"].items() if k in inner}
            assert inner.pop("init_weights", "bert") == "bert"
            assert ours == theirs


@pytest.mark.parametrize("d", [12, 576, 768, 1000])
def test_the_library_finds_our_width_from_its_reduction_factor(d):
    for r in range(1, d + 1):
        factor = adapterhub._library_config(PfeifferAdapter(r=r), d, 0)["reduction_factor"]
        assert int(d // factor) == r


@pytest.mark.parametrize("method", [
    HoulsbyAdapter(r=5, activation="identity"),
    ParallelAdapter(r=7, activation="tanh", init="bert", scaling=0.5),
    AdapterDrop(ParallelAdapter(r=2, scaling="learned"), n=1),
])  # fmt: skip
@pytest.mark.parametrize("family", FAMILIES)
def test_folders_go_round(family, method, tmp_path):
    model = alive(method, relatives.model(family), "film")
    adapterhub.save(model, tmp_path)
    again = adapterhub.load(relatives.model(family), tmp_path, "product")
    assert methods.attached(again)["product"].count(model.config) == method.count(model.config)
    assert torch.equal(answers(again, tiny.batch()), answers(model, tiny.batch()))


def test_robust_adapters_are_written_whole_and_safetensors_are_read(tmp_path):
    from safetensors.torch import save_file

    model = alive(AdapterDrop(PfeifferAdapter(r=3), robust=True), deep("llama"), "film")
    adapterhub.save(model, tmp_path)
    tensors = torch.load(tmp_path / "pytorch_adapter.bin", weights_only=True)
    (tmp_path / "pytorch_adapter.bin").unlink()
    save_file(tensors, tmp_path / "adapter.safetensors")
    again = adapterhub.load(deep("llama"), tmp_path)
    assert methods.attached(again) == {"default": PfeifferAdapter(r=3)}
    assert torch.equal(answers(again, tiny.batch()), answers(model, tiny.batch()))


def rewritten(source: Path, target: Path, **changes) -> Path:
    r"""A copy of an adapter folder with entries of its "config" changed; "config" itself changes the whole of it."""
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "adapter_config.json").read_text())
    if "config" in changes:
        config["config"] = changes["config"]
    else:
        config["config"] |= changes
    (target / "adapter_config.json").write_text(json.dumps(config))
    return target


def test_old_folders_name_their_form_and_their_tensors_otherwise(tmp_path):
    stored = Stored("bert/pfeiffer")
    folder = rewritten(stored.folder, tmp_path, config="pfeiffer")
    weights = torch.load(folder / "pytorch_adapter.bin", weights_only=True)
    old = {k.replace("output.adapters.", "output.layer_text_task_adapters."): v for k, v in weights.items()}
    assert old.keys() != weights.keys()
    torch.save(old, folder / "pytorch_adapter.bin")
    assert adapterhub.read_method(folder) == PfeifferAdapter(r=3)
    stored.assert_same(adapterhub.load(stored.model(), folder), "pfeiffer", exactly=stored.has_these_bits())


@pytest.mark.parametrize("written, read", [("gelu_orig", "gelu"), ("gelu", None)])
def test_folders_from_before_gelu_meant_gelu(written, read, tmp_path):
    folder = rewritten(FIXTURES / "bert" / "pfeiffer", tmp_path, non_linearity=written)
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["version"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if read:
        assert adapterhub.read_method(folder) == PfeifferAdapter(r=3, activation=read)
    else:
        with pytest.raises(CourseError, match="unknown activation 'gelu_new'; did you mean 'gelu'"):
            adapterhub.read_method(folder)


@pytest.mark.parametrize("changes, said", [
    ({"phm_layer": True}, "n=4 does not divide the width of the bottleneck, r=3"),
    ({"ln_before": True}, "has ln_before=True"),
    ({"inv_adapter": "nice"}, "has inv_adapter='nice'"),
    ({"dropout": 0.1}, "has dropout=0.1"),
    ({"residual_before_ln": False}, "has residual_before_ln=False"),
    ({"mh_adapter": True}, "sits where no method here puts one: mh_adapter=True"),
    ({"scaling": 2.0}, "has scaling=2.0: only ParallelAdapter scales"),
    ({"non_linearity": "mish"}, "unknown activation 'mish'"),
    ({"leave_out": [1]}, r"leaves out blocks \[1\]: only the first ones"),
    ({"architecture": "lora"}, "is a lora, not a bottleneck"),
    ({"config": "pfeifer"}, "unknown adapter configuration 'pfeifer'; did you mean 'pfeiffer'"),
])  # fmt: skip
def test_folders_of_what_no_method_here_is(changes, said, tmp_path):
    folder, model = (
        rewritten(FIXTURES / "bert" / "pfeiffer", tmp_path, **changes),
        Stored("bert/pfeiffer").model(),
    )
    with pytest.raises(CourseError, match=said):
        adapterhub.load(model, folder)
    assert methods.attached(model) == {}


def test_folders_that_do_not_fit_leave_the_model_as_it_was(tmp_path):
    folder = FIXTURES / "bert" / "pfeiffer"
    model = alive(PfeifferAdapter(r=2), tiny.encoder(), "film")
    alive(PfeifferAdapter(r=2), model, "product")
    before = answers(model, tiny.batch())
    for target, source, options, said in [
        (model, folder, {}, r"of another model: .* is \(3, 12\) there and \(3, 32\) here"),
        (
            model,
            FIXTURES / "bert" / "houlsby",
            {},
            "cannot attach: this model already carries PfeifferAdapter",
        ),
        (model, tmp_path, {}, "is not an adapter of AdapterHub: it has no adapter_config.json"),
        (
            Stored("gpt2/pfeiffer").model(),
            folder,
            {},
            "was trained on a bert model, this one is gpt2",
        ),
        (tiny.encoder(num_hidden_layers=1), folder, {}, "of other targets: .* unexpected, such as block 1"),
        (
            tiny.encoder(num_labels=3, hidden_size=12, num_attention_heads=3),
            folder,
            {},
            "classifier.weight is",
        ),
    ]:
        names = list(methods.attached(target))
        with pytest.raises(CourseError, match=said):
            adapterhub.load(target, source, "third", **options)
        assert list(methods.attached(target)) == names
    assert model._coursekit.switch.active == "product"
    assert torch.equal(answers(model, tiny.batch()), before)
    methods.activate(model, None)
    with pytest.raises(CourseError, match="of another model"):
        adapterhub.load(model, folder, "third")
    assert model._coursekit.switch.active is None
    three = tiny.encoder(num_labels=3, hidden_size=12, num_attention_heads=3)
    head = three.classifier.weight.detach().clone()
    adapterhub.load(three, folder, head=False)
    assert torch.equal(three.classifier.chosen("default").weight, head)


def test_the_output_layer_of_a_language_model_stays_the_base_s(tmp_path):
    stored = Stored("gpt2/pfeiffer")
    folder, model = rewritten(stored.folder, tmp_path), stored.model()
    torch.save({"lm_head.weight": torch.zeros_like(model.lm_head.weight)}, folder / "pytorch_model_head.bin")
    before = model.lm_head.weight.clone()
    adapterhub.load(model, folder)
    assert torch.equal(model.lm_head.weight, before)
    stored.assert_same(model, "pfeiffer", exactly=stored.has_these_bits())


class Evil:
    r"""A pickle that would write a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_folder_cannot_run_code_and_damage_is_said(tmp_path):
    folder = rewritten(FIXTURES / "bert" / "pfeiffer", tmp_path / "adapter")
    whole = (folder / "pytorch_adapter.bin").read_bytes()
    torch.save({"w": Evil(tmp_path / "ran")}, folder / "pytorch_adapter.bin")
    with pytest.raises(CourseError, match="is damaged or more than tensors"):
        adapterhub.load(tiny.encoder(), folder)
    assert not (tmp_path / "ran").exists()
    for content in (whole[:-100], b"", b"no archive"):
        (folder / "pytorch_adapter.bin").write_bytes(content)
        with pytest.raises(CourseError, match="is damaged"):
            adapterhub.load(tiny.encoder(), folder)
    (folder / "pytorch_adapter.bin").unlink()
    with pytest.raises(CourseError, match="has neither pytorch_adapter.bin nor adapter.safetensors"):
        adapterhub.load(tiny.encoder(), folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(CourseError, match="adapter_config.json is damaged"):
        adapterhub.load(tiny.encoder(), folder)
    PfeifferAdapter().save(PfeifferAdapter().attach(tiny.encoder()), folder)
    with pytest.raises(CourseError, match="has no entry 'config'; a checkpoint of this course or of peft"):
        adapterhub.load(tiny.encoder(), folder)


def test_what_the_library_has_no_place_for_is_not_written(tmp_path):
    cases = [
        (LinAdapter(r=2), "LinAdapter is not written in AdapterHub's form"),
        (methods.LoRA(r=2), "LoRA is not written in AdapterHub's form"),
        (AdapterDrop(LinAdapter(r=2), n=1), "LinAdapter is not written in AdapterHub's form"),
        (PfeifferAdapter(r=2, train_norms=True), "no place for trained norms"),
    ]
    for method, said in cases:
        with pytest.raises(CourseError, match=said):
            adapterhub.save(method.attach(tiny.encoder()), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(CourseError, match="unknown adapter 'flim'; did you mean 'film'"):
        adapterhub.save(PfeifferAdapter(r=2).attach(tiny.encoder(), "film"), tmp_path, "flim")
    with pytest.raises(CourseError, match="no adapter is attached"):
        adapterhub.save(tiny.encoder(), tmp_path)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    model = alive(PfeifferAdapter(r=2), tiny.encoder(), "film")
    adapterhub.save(model, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(CourseError, match="cannot write an adapter to .*No space left on device"):
        adapterhub.save(nonzero(model, 5), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


# bad input ------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("options, said", [
    ({"r": 0}, "r=0 is no width"),
    ({"r": 2.5}, "r=2.5 is no width"),
    ({"r": True}, "r=True is no width"),
    ({"activation": "gleu"}, "unknown activation 'gleu'; did you mean 'gelu'"),
    ({"init": "houlsbi"}, "unknown initialisation 'houlsbi'; did you mean 'houlsby'"),
])  # fmt: skip
def test_hyperparameters_that_make_no_sense(kind, options, said):
    with pytest.raises(CourseError, match=said):
        kind(**options)


@pytest.mark.parametrize("scaling", [0, -1.0, True, "lerned", None, float("nan")])
def test_scales_that_make_no_sense(scaling):
    with pytest.raises(CourseError, match=f"scaling={scaling!r} is neither a number above 0"):
        ParallelAdapter(scaling=scaling)


@pytest.mark.parametrize("make, said", [
    (lambda: AdapterDrop(), "say n=3, or robust=True"),
    (lambda: AdapterDrop(n=-1), "n=-1 is no number of blocks"),
    (lambda: AdapterDrop(n=1.0), "n=1.0 is no number of blocks"),
    (lambda: AdapterDrop(n=True), "n=True is no number of blocks"),
    (lambda: AdapterDrop(methods.LoRA(), n=1), "cannot be dropped: take one of HoulsbyAdapter, Pfeiffer"),
    (lambda: AdapterDrop(n=3).count(tiny.config("bert")), "n=3 is above the number of blocks of this model"),
    (lambda: AdapterDrop(n=3).attach(tiny.encoder()), "take n up to 2"),
    (lambda: AdapterDrop(n=3, robust=True).attach(tiny.encoder()), "take n up to 2"),
    (lambda: methods.skipping(tiny.encoder(), 1).__enter__(), "carries no bottleneck adapters"),
    (lambda: methods.skipping(methods.LoRA().attach(tiny.encoder()), 1).__enter__(), "carries no bottleneck"),
    (lambda: methods.skipping(PfeifferAdapter().attach(tiny.encoder()), 3).__enter__(), "n=3: this model has 2"),
    (lambda: methods.skipping(PfeifferAdapter().attach(tiny.encoder()), -1).__enter__(), "from 0 to 2"),
])  # fmt: skip
def test_numbers_of_blocks_that_make_no_sense(make, said):
    with pytest.raises(CourseError, match=said):
        make()


def test_a_family_that_the_course_does_not_know():
    shape = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=97
    )
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neox", **shape))
    with pytest.raises(CourseError, match="model type 'gpt_neox' is not described"):
        HoulsbyAdapter().attach(model)
    assert not hasattr(model, "_coursekit") and all(p.requires_grad for p in model.parameters())
    assert counts.norms(tiny.config("bert"), first=2) == 0

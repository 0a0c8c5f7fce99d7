r"""Bottleneck adapters against the `adapters` library, against formulas written out, and AdapterDrop by itself.

What every method promises (start, freezing, saving, rows, generation, ...) is proved in `test_every_method.py`.
"""

import pytest
import tiny
import torch
from attached import alive, labelled, nonzero
from transformers import AutoConfig, AutoModel

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import AdapterDrop, HoulsbyAdapter, LinAdapter, ParallelAdapter, PfeifferAdapter
from coursekit.methods.adapters.bottleneck import ACTIVATIONS, Bottleneck
from coursekit.methods.adapters.lin import NormedBottleneck
from coursekit.methods.adapters.parallel import ScaledBottleneck
from coursekit.methods.adapters.placement import AdapterSite

KINDS = (HoulsbyAdapter, PfeifferAdapter, ParallelAdapter, LinAdapter)
OPT_POST_NORM = dict(do_layer_norm_before=False, word_embed_proj_dim=16)  # the shape of OPT-350M

each_kind = pytest.mark.parametrize("kind", KINDS)


# the formulas ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation, expected", [
    ("relu", lambda z: z.clamp(min=0)),
    ("gelu", lambda z: z * 0.5 * (1 + torch.erf(z / 2**0.5))),
    ("swish", lambda z: z / (1 + torch.exp(-z))),
    ("tanh", lambda z: (torch.exp(2 * z) - 1) / (torch.exp(2 * z) + 1)),
    ("identity", lambda z: z),
])  # fmt: skip
def test_activations(activation, expected):
    bottleneck, x = (Bottleneck(6, 4, activation), torch.randn(5, 6, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(bottleneck(x), bottleneck.up(expected(bottleneck.down(x))))
    normed, z = nonzero(NormedBottleneck(6, 4, activation)), (x - x.mean(-1, keepdim=True))
    z = z / (x.var(-1, unbiased=False, keepdim=True) + normed.norm.eps).sqrt() * normed.norm.weight + normed.norm.bias
    torch.testing.assert_close(normed(x), normed.up(expected(normed.down(z))))
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
    assert ScaledBottleneck("learned", 6, 4).scaling.item() == 1


def test_defaults_are_the_papers_where_they_are_said_to_be():
    assert HoulsbyAdapter() == HoulsbyAdapter(r=64, activation="gelu", init="houlsby", train_norms=False)
    assert PfeifferAdapter() == PfeifferAdapter(r=768 // 16, activation="relu", init="bert")
    assert ParallelAdapter() == ParallelAdapter(r=64, activation="relu", init="zero", scaling=4.0)
    assert LinAdapter() == LinAdapter(r=64, activation="relu", init="bert")


# counts ---------------------------------------------------------------------------------------------------


@each_kind
def test_closed_form_for_the_shape_of_opt_350m(kind):
    method = kind(r=3, train_norms=True)
    with torch.device("meta"):
        model = AutoModel.from_config(tiny.config("opt", **OPT_POST_NORM))
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
    assert len({v.data_ptr() for v in saved.values()}) == len(saved) - (family in tiny.DECODERS)  # a tied head
    methods.detach(model)
    assert {n for n, _ in model.named_parameters()} == names


def test_a_mixed_batch_of_another_size_where_the_feed_forward_sees_no_rows():
    model = alive(PfeifferAdapter(r=3), tiny.decoder("opt"), "film")
    # 3 x 10 tokens are also 2 x 15: the number of rows has to come from elsewhere
    with methods.mixed_batch(model, ["film"] * 2), pytest.raises(CourseError, match="given 2 .* has 3 rows"):
        model(**tiny.batch(3))


def test_beside_norms_without_weights_the_bottlenecks_train():
    model = HoulsbyAdapter().attach(tiny.decoder("opt", layer_norm_elementwise_affine=False))
    assert methods.trainable(model) == HoulsbyAdapter().count(model.config)

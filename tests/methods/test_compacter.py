r"""Compacter and Compacter++ against the `adapters` library, and their layers against torch.kron.

What every method promises (start, freezing, saving, rows, generation, ...) is proved in `test_every_method.py`.
"""

import copy

import pytest
import tiny
import torch
import torch.nn.functional as F
from attached import alive
from safetensors.torch import load_file
from stored import Stored
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from coursekit import adapterhub, methods
from coursekit.methods import Compacter, CompacterPlus
from coursekit.methods.adapters.adapter import bottlenecks
from coursekit.methods.adapters.compacter import KroneckerLinear, Rule

KINDS = {"compacter": Compacter, "compacterpp": CompacterPlus}
STORED = [f"{family}/{case}" for family in ("bert", "gpt2", "llama") for case in KINDS]

each_kind = pytest.mark.parametrize("kind", KINDS.values())
each_stored = pytest.mark.parametrize("stored", STORED)


def shared(model: nn.Module, name: str = "default") -> nn.Parameter:
    return next(p for key, p in model.named_parameters() if key.endswith(f"compacter.rules.{name}.A"))


def layer(d_in: int = 12, d_out: int = 6, n: int = 3, seed: int = 0) -> KroneckerLinear:
    r"""In float64, none of its numbers 0."""
    dtype, random = torch.float64, torch.Generator().manual_seed(seed)
    made, rule = KroneckerLinear(d_in, d_out, n, "cpu", dtype), Rule(n, "cpu", dtype)
    made.rule = (rule,)
    with torch.no_grad():
        for parameter in (rule.A, *made.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=dtype))
    return made


# the layer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d_in", "d_out", "n"), [(12, 6, 3), (6, 12, 3), (8, 4, 4), (5, 3, 1)])
def test_a_layer_is_a_sum_of_kronecker_products(d_in, d_out, n):
    one = layer(d_in, d_out, n)
    W = sum(torch.kron(A, torch.outer(s, t)) for A, s, t in zip(one.A, one.s, one.t, strict=True))
    torch.testing.assert_close(one.weight, W, atol=1e-12, rtol=0)
    x = torch.randn(2, 3, d_in, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(one(x), F.linear(x, W, one.bias), atol=1e-12, rtol=0)

    wanted, factors = torch.randn(2, 3, d_out, dtype=torch.float64), (x, one.A, one.s, one.t, one.bias)
    found = torch.autograd.grad((one(x) * wanted).sum(), factors)
    expected = torch.autograd.grad((F.linear(x, W, one.bias) * wanted).sum(), factors)
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-11, rtol=0)


def test_a_layer_keeps_less_for_the_backward_pass_than_its_matrix_has():
    d, r, n, kept = 768, 24, 4, 0
    one = KroneckerLinear(d, r, n, "cpu", torch.float32)
    one.rule = (Rule(n, "cpu", torch.float32),)
    own = {p.untyped_storage().data_ptr() for p in (one.s, one.t, one.bias, one.A)}

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * (tensor.untyped_storage().data_ptr() not in own)
        return tensor

    x = torch.randn(1, 8, d)
    own.add(x.untyped_storage().data_ptr())
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        one(x)
    assert 0 < kept <= 8 * 3 * n * n < d * r


# the library ----------------------------------------------------------------------------------------------


def in_the_library_s_order(self: KroneckerLinear, x: Tensor) -> Tensor:
    r"""The whole matrix first, and x from the left: what the library computes, operation by operation."""
    inner = self.t.unsqueeze(2) * self.s.unsqueeze(1)  # (n, in / n, out / n)
    products = self.A.mT[:, :, None, :, None] * inner[:, None, :, None, :]  # (n, n, in / n, n, out / n)
    return x @ products.reshape(len(self.A), x.shape[-1], -1).sum(0) + self.bias


@each_stored
def test_the_library_s_adapters_answer_the_same_here(stored, monkeypatch):
    r"""To the bit in the library's order of operations; in ours, which is shorter, but for rounding."""
    stored = Stored(stored)
    model = adapterhub.load(stored.model(), stored.folder)
    assert methods.attached(model)["default"] == KINDS[stored.case](r=4, n=2)
    stored.assert_same(model, stored.case, exactly=False)
    with methods.disabled(model):
        stored.assert_same(model, "plain", exactly=stored.has_these_bits())
    with monkeypatch.context() as changed:
        changed.setattr(KroneckerLinear, "forward", in_the_library_s_order)
        stored.assert_same(model, stored.case, exactly=stored.has_these_bits())

    with torch.no_grad():  # the stored answers would show a factor that is turned round
        shared(model).copy_(shared(model).mT.clone())
    with pytest.raises(AssertionError, match="not close"):
        stored.assert_same(model, stored.case, exactly=False)


# counts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "expected"), [(Compacter, 57_088), (CompacterPlus, 28_576)])
def test_bert_base_has_as_many_as_the_library_counts(kind, expected):
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model("bert"))
        kind().attach(model)
    assert methods.trainable(model) == kind().count(model.config) == expected


# one A for all --------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_all_layers_share_one_parameter(family, kind, tmp_path):
    model = alive(kind(n=2, r=4), tiny.model(family), scale=1)
    layers = [p for b in bottlenecks(model, "default").values() for p in (b.down, b.up)]
    assert len(layers) == 2 * tiny.LAYERS * len(kind.sites)
    assert {id(one.A) for one in layers} == {id(shared(model))}
    stored = {key: value for key, value in model.state_dict().items() if value.shape == (2, 2, 2)}
    assert len(stored) == 1
    trained = model._coursekit.parameters["default"]
    assert len({id(p) for p in trained}) == len(trained) and any(p is shared(model) for p in trained)

    kind(n=2, r=4).save(model, tmp_path)
    written = load_file(tmp_path / "adapter_model.safetensors")
    (path,) = (key for key in written if key.endswith(".A"))
    assert path.endswith(f"{model.base_model_prefix}.compacter.A")
    assert torch.equal(written[path], shared(model))
    own = sum(value.numel() for key, value in written.items() if "classifier" not in key)
    assert own == kind(n=2, r=4).count(model.config)


@each_kind
def test_a_copy_of_the_model_shares_within_itself(kind):
    model = alive(kind(n=2, r=4), tiny.encoder(), scale=1)
    before, copied = model(**tiny.batch()).logits, copy.deepcopy(model)
    ours, theirs = shared(model), shared(copied)
    assert ours is not theirs
    assert all(b.down.A is theirs and b.up.A is theirs for b in bottlenecks(copied, "default").values())
    with torch.no_grad():
        theirs.add_(1)
    assert torch.equal(model(**tiny.batch()).logits, before)
    assert not torch.allclose(copied(**tiny.batch()).logits, before, atol=1e-4)
    for precision in (torch.float64, torch.float32):
        copied.to(precision)
        assert bottlenecks(copied, "default").popitem()[1].up.A is shared(copied)
        assert shared(copied).dtype == precision


# start and training ---------------------------------------------------------------------------------------


@each_kind
def test_it_starts_close_to_no_change_or_at_none(kind):
    one = tiny.batch()
    before = tiny.encoder()(**one).logits
    assert torch.equal(kind(n=2, r=4, init="zero").attach(tiny.encoder())(**one).logits, before)
    model = kind(n=2, r=4).attach(tiny.encoder())
    torch.testing.assert_close(model(**one).logits, before, atol=1e-6, rtol=0)
    assert all(one.up.weight.any() and one.down.weight.any() for one in bottlenecks(model, "default").values())


def test_what_the_starting_values_are():
    torch.manual_seed(0)
    model = Compacter(n=4, r=64).attach(tiny.encoder(hidden_size=512))
    for bottleneck in bottlenecks(model, "default").values():
        for vectors, size in ((bottleneck.down.t, 128), (bottleneck.down.s, 16), (bottleneck.up.s, 128)):
            bound = (6 / (1 + size)) ** 0.5
            assert vectors.shape == (4, size) and 0.9 * bound < vectors.abs().max() <= bound
        assert not bottleneck.down.bias.any() and not bottleneck.up.bias.any()
    assert 0.7e-4 < shared(model).std() < 1.3e-4


# bad input ------------------------------------------------------------------------------------------------

r"""IA3 against peft with the same vectors, against closed forms, and folded into the weights."""

import families
import peft
import pytest
import tiny
import torch
from attached import labelled, nonzero, refused, rows_answer_as_alone
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as PEFT_FEEDFORWARD
from torch import nn

from coursekit import counts, methods
from coursekit.architecture import describe
from coursekit.methods import IA3
from coursekit.methods.ia3 import Rescale

KINDS = tiny.FAMILIES + tiny.RELATIVES
PEFT_GPT2 = IA3(targets=("c_attn", "mlp.c_proj"), feedforward=("mlp.c_proj",))

each_kind = pytest.mark.parametrize("kind", KINDS)
each_family = pytest.mark.parametrize("family", tiny.FAMILIES)


def peft_gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    names = {n: p.grad for n, p in model.named_parameters() if "ia3_l" in n}
    return {n.removeprefix("base_model.model.").split(".ia3_l")[0]: g.flatten() for n, g in names.items()}


# peft -----------------------------------------------------------------------------------------------------


def test_gpt2_s_gradients_are_those_of_peft_without_the_queries(tmp_path):
    model = nonzero(IA3().attach(tiny.model("gpt2")))
    IA3().save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny.model("gpt2"), tmp_path, is_trainable=True).eval()
    for one in (model, theirs):
        one(**labelled("gpt2")).loss.backward()
    reference, d = peft_gradients(theirs), tiny.D_MODEL
    for path, l in IA3().vectors(model).items():
        wanted = reference[path][d:] if "c_attn" in path else reference[path]
        assert torch.equal(l.grad, wanted) and l.grad.abs().sum() > 0, path
    assert all(g[:d].abs().sum() > 0 for path, g in reference.items() if "c_attn" in path)


# GPT-2: three matrices in one -------------------------------------------------------------------------------


def test_a_checkpoint_that_scales_queries_is_no_checkpoint_of_the_paper_s(tmp_path):
    theirs = nonzero(peft.get_peft_model(tiny.model("gpt2"), peft.IA3Config(task_type="CAUSAL_LM"))).eval()
    theirs.save_pretrained(tmp_path)
    model, fresh, one = nonzero(IA3().attach(tiny.model("gpt2"))), tiny.model("gpt2"), tiny.batch()
    for target in (model, fresh):
        with refused(r'scales queries as well.*IA3\(targets=\("c_attn", "mlp.c_proj"\)', target):
            IA3().load(target, tmp_path)
    assert IA3.from_checkpoint(tmp_path) == PEFT_GPT2
    assert torch.equal(PEFT_GPT2.load(fresh, tmp_path)(**one).logits, theirs(**one).logits)


# the formula ------------------------------------------------------------------------------------------------


def test_gradients_are_right_in_float64_and_have_autograd_s_bits():
    random = torch.Generator().manual_seed(0)
    x, l = torch.randn(3, 4, 5, generator=random), torch.randn(5, generator=random)
    exact = [t.double().requires_grad_() for t in (x, l)]
    assert torch.autograd.gradcheck(Rescale.apply, exact)
    g, found = torch.randn(3, 4, 5, generator=random), []
    for function in (Rescale.apply, torch.mul):
        inputs = [t.clone().requires_grad_() for t in (x, l)]
        found.append([function(*inputs), *torch.autograd.grad(function(*inputs), inputs, g)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_sixteen_bits_keep_the_small_tensor_and_reduce_in_fp32():
    random, kept = torch.Generator().manual_seed(0), []
    x, g = (torch.randn(64, 32, generator=random).bfloat16() for _ in range(2))
    l = nn.Parameter(torch.randn(32, generator=random))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        h = Rescale.apply(x.requires_grad_(), l)
    assert sorted(t.nbytes for t in kept) == [4 * 32, 2 * 64 * 32]  # l, and x as it came
    dx, dl = torch.autograd.grad(h, (x, l), g)
    assert h.dtype == dx.dtype == torch.bfloat16 and dl.dtype == torch.float32
    assert torch.equal(dl, (g.float() * x.float()).sum(0))
    assert torch.equal(dx, (g.float() * l).bfloat16())


# counts -----------------------------------------------------------------------------------------------------


@each_kind
def test_one_number_for_each_key_value_and_hidden_unit(kind):
    config = tiny.model(kind).config
    assert IA3().count(config) == counts.ia3(config) == tiny.LAYERS * (2 * describe(config).d_kv + tiny.D_FF)


@pytest.mark.parametrize(("heads", "kv"), [(4, 2), (4, 1), (6, 3), (2, 2)])
def test_of_a_fused_layer_with_grouped_queries_only_keys_and_values_are_scaled(heads, kv):
    size = dict(hidden_size=8 * heads, num_attention_heads=heads, num_key_value_heads=kv)
    model, plain = families.model("phi3", **size), families.model("phi3", **size)
    method, x = IA3(), torch.randn(2, 3, 8 * heads)
    assert method.count(model.config) == tiny.LAYERS * (2 * 8 * kv + tiny.D_FF)
    nonzero(method.attach(model))
    assert methods.trainable(model) == method.count(model.config)
    ours, theirs = (m.model.layers[1].self_attn.qkv_proj for m in (model, plain))
    y, y0 = ours(x), theirs(x)
    assert torch.equal(y[..., : 8 * heads], y0[..., : 8 * heads])
    assert (y[..., 8 * heads :] / y0[..., 8 * heads :] - 1).abs().min() > 1e-4


# several adapters -------------------------------------------------------------------------------------------


@each_family
def test_adapters_with_other_targets_share_a_model_and_a_batch(family):
    r"""One scales what goes into a matrix that the other scales what comes out of."""
    down = PEFT_FEEDFORWARD[family][0]
    film, product = IA3(), IA3(targets=(down,), feedforward=())
    model, one = tiny.model(family), tiny.batch()
    nonzero(film.attach(model, "film"), 0), nonzero(product.attach(model, "product"), 1)
    alone = {name: methods.activate(model, name)(**one).logits for name in ("film", "product", None)}
    rows_answer_as_alone(model, ["product", None, "film"], one, atol=1e-6, rtol=1e-5)
    for name, method in (("film", film), ("product", product)):
        methods.activate(model, name)
        method.merge(model, name)
        torch.testing.assert_close(model(**one).logits, alone[name], atol=1e-6, rtol=1e-5)
        methods.unmerge(model)


def test_rows_of_one_batch_in_sixteen_bits():
    model, one = tiny.model("opt", dtype=torch.bfloat16), tiny.batch(2)
    for seed, name in enumerate(("film", "product")):
        nonzero(IA3().attach(model, name), seed)
    mixed = rows_answer_as_alone(model, ["product", "film"], one, atol=1e-2, rtol=2e-2)
    assert mixed.dtype == torch.bfloat16

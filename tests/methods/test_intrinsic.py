r"""Random subspaces: the transform against dense matrices, gradients against autograd, weights against a plain sum."""

import copy
import json
import math
import pickle

import pytest
import tiny
import torch
from attached import labelled, nonzero, refused, train
from torch import nn
from torch.autograd import gradcheck

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import IntrinsicSAID
from coursekit.methods.intrinsic.displaced import ReparametrizedLayer
from coursekit.methods.intrinsic.fastfood import SMALLEST_BLOCK, Fastfood, stages, walsh_hadamard
from coursekit.methods.intrinsic.said import Subspace

DOUBLE = torch.float64
each_family = pytest.mark.parametrize("family", tiny.FAMILIES)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def hadamard(n: int) -> torch.Tensor:
    r"""Sylvester's construction: twice as large each time."""
    H = torch.ones(1, 1, dtype=DOUBLE)
    while len(H) < n:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return H


def dense(F: Fastfood) -> torch.Tensor:
    r"""F column by column: (D, d)."""
    return torch.stack([F(column) for column in torch.eye(F.d, dtype=DOUBLE)], dim=1)


def by_definition(F: Fastfood) -> torch.Tensor:
    r"""The same matrix from the dense factors of its formula, with the whole Hadamard matrix."""
    S, order, G = F.drawn(torch.zeros(1, dtype=DOUBLE))
    H = hadamard(F.n)
    permuted = H[order][:, : F.d] @ torch.diag(S)  # Π H pad(S ⊙ v)
    tables = [F.sigma * (H * g) @ permuted for g in G]  # H * g is H times a diagonal matrix
    pieces = []
    for size, count in zip(F.groups, F.blocks, strict=True):
        pieces.append(torch.cat(tables[:count])[:size])
        tables = tables[count:]
    return torch.cat(pieces)


def adjoint(F: Fastfood, g: torch.Tensor) -> torch.Tensor:
    r"""$F^\top g$, put together as the backward pass of `Displace` does it, group by group."""
    parts = enumerate(g.split(F.groups))
    return F.unmixed(sum(F.unrows(F.padded([part], i), i) for i, part in parts))


# the transform --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(12))
def test_the_fast_transform_is_the_product_with_the_whole_matrix(bits):
    H = hadamard(2**bits)
    x = random(3, 2, 2**bits)
    torch.testing.assert_close(walsh_hadamard(x), x @ H.T)
    torch.testing.assert_close(walsh_hadamard(walsh_hadamard(x)), 2**bits * x)
    assert sum(stages(2**bits)) == bits and max(stages(2**bits)) <= 4


def test_the_transform_is_its_own_adjoint_and_autograd_goes_through_it():
    x, g = random(2, 64).requires_grad_(), random(2, 64, seed=1)
    torch.testing.assert_close(torch.autograd.grad(walsh_hadamard(x), x, g)[0], walsh_hadamard(g))
    assert gradcheck(walsh_hadamard, (random(1, 16).requires_grad_(),))


@pytest.mark.parametrize("n", [0, 3, 12, 1000])
def test_a_length_that_is_no_power_of_two_is_said_in_a_line(n):
    with pytest.raises(CourseError, match=f"transform of {n} numbers: .* power of two$"):
        walsh_hadamard(torch.zeros(2, n))


def test_autocast_does_not_round_the_transform():
    x = random(4, 1024).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(walsh_hadamard(x), walsh_hadamard(x.clone()))
        again = walsh_hadamard(walsh_hadamard(x)) / 1024
    torch.testing.assert_close(again, x, atol=1e-5, rtol=1e-5)


# Fastfood -------------------------------------------------------------------------------------------------

SHAPES = [(1, (5,)), (7, (700, 1024, 3)), (300, (5000, 2500, 60)), (513, (2048, 300))]


@pytest.mark.parametrize(("d", "groups"), SHAPES)
def test_it_is_the_product_of_its_dense_factors(d, groups):
    F = Fastfood(d, groups, seed=3)
    assert F.n >= max(SMALLEST_BLOCK, 4 * d) and dense(F).shape == (sum(groups), d)
    torch.testing.assert_close(dense(F), by_definition(F))


@pytest.mark.parametrize(("d", "groups"), SHAPES)
def test_the_adjoint_is_the_transposed_matrix(d, groups):
    F, g = Fastfood(d, groups, seed=3), random(sum(groups))
    torch.testing.assert_close(adjoint(F, g), dense(F).T @ g)


def test_many_blocks_at_a_time_or_few_is_the_same(monkeypatch):
    F, v, g = Fastfood(20, (20_000, 3000), seed=0), random(20), random(23_000)
    whole = F(v), adjoint(F, g)
    monkeypatch.setattr("coursekit.methods.intrinsic.fastfood.CHUNK", 2 * F.n)
    torch.testing.assert_close((F(v), adjoint(F, g)), whole)


def test_columns_have_length_one_and_are_nearly_orthogonal_and_entries_are_normal():
    D, d = 200_000, 40
    F = dense(Fastfood(d, (150_000, 50_000), seed=1))
    products = F.T @ F
    assert (products.diagonal() - 1).abs().max() < 0.02
    # Independent directions of length 1 have products of about 1/√D.
    across = products[~torch.eye(d, dtype=torch.bool)]
    assert across.abs().max() < 6 / math.sqrt(D) and 0.5 < across.std() * math.sqrt(D) < 2
    entries = (F * math.sqrt(D)).flatten()
    assert abs(entries.mean()) < 0.01 and abs(entries.var() - 1) < 0.02
    assert abs(entries.pow(4).mean() - 3) < 0.1  # a normal variable's
    # Nor do rows of a block say anything about each other.
    rows = F[:SMALLEST_BLOCK] * math.sqrt(D / d)
    related = (rows @ rows.T)[~torch.eye(SMALLEST_BLOCK, dtype=torch.bool)]
    assert related.std() < 1.5 / math.sqrt(d)


def test_the_directions_are_a_function_of_seed_and_sizes_alone():
    v, first = random(9), Fastfood(9, (3000,), seed=5)(random(9))
    torch.manual_seed(99)
    torch.rand(7)
    with torch.inference_mode():
        again = Fastfood(9, (3000,), seed=5)
        assert torch.equal(again(v), first)
    assert torch.equal(again(v.clone().requires_grad_()), first)  # what was drawn there serves training, too
    with torch.device("meta"):
        assert torch.equal(Fastfood(9, (3000,), seed=5)(v), first)
    assert not torch.allclose(Fastfood(9, (3000,), seed=6)(v), first, atol=1e-3)
    torch.testing.assert_close(Fastfood(9, (3000,), seed=5)(v.float()), first.float())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_moves_along_the_same_directions():
    F, v, g = Fastfood(300, (50_000, 700), seed=2), random(300), random(50_700)
    torch.testing.assert_close(F(v.cuda()).cpu(), Fastfood(300, (50_000, 700), seed=2)(v))
    torch.testing.assert_close(adjoint(F, g.cuda()).cpu(), adjoint(F, g))


# weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", [True, False], ids=["SAID", "DID"])
def test_the_plain_subspace_and_the_fast_one_are_the_same(structure):
    F, frozen = Fastfood(6, (40, 30), seed=0), (random(5, 4), random(2, 5, seed=1))
    subspace = Subspace(F, 2 if structure else 0, dtype=DOUBLE)
    assert all(torch.equal(new, old) for new, old in zip(subspace(1, *frozen), frozen, strict=True))
    with torch.no_grad():
        subspace.v.copy_(random(6, seed=2))
        if structure:
            subspace.scales.copy_(random(2, seed=3))
    scale = subspace.scales[1] if structure else 1.0
    moved = scale * F(subspace.v)[40:]
    expected = frozen[0] + moved[:20].view(5, 4), frozen[1] + moved[20:].view(2, 5)
    for unused in (0, 1):  # one of the weights may have no gradient, and the others' arrives all the same
        gradients = []
        for compute in (subspace, subspace.fast):
            made = compute(1, *frozen)
            torch.testing.assert_close(made, expected)
            loss = sum((weight * random(*weight.shape, seed=4)).sum() for weight in made[unused:])
            gradients.append(torch.autograd.grad(loss, list(subspace.parameters())))
        torch.testing.assert_close(*gradients)
        assert len(gradients[0]) == 1 + structure and all(g.abs().sum() > 0 for g in gradients[0])


def said(family: str, parts: str = "all", structure: bool = True, **changes) -> nn.Module:
    method = IntrinsicSAID(d=30, parts=parts, structure=structure, seed=4)
    return nonzero(method.attach(tiny.model(family, **changes).double()), scale=3)


def moved_by_hand(model: nn.Module, family: str) -> tuple[nn.Module, torch.Tensor, list[str]]:
    r"""A plain model with θ0 + λ F(v), F as a dense matrix; that matrix, and the names of its rows' tensors."""
    directions, plain = model.base_model.intrinsic, tiny.model(family).double()
    for module in plain.modules():
        if isinstance(module, nn.Embedding):  # else PyTorch would drop the gradient of the padding token's row
            module.padding_idx = None
    subspace = directions.subspaces["default"]
    F, v, scales = dense(subspace.F), subspace.v.detach(), subspace.scales
    names = {id(p): name for name, p in plain.named_parameters()}
    twins = dict(zip((id(m) for m in bare(model)), bare(plain), strict=True))
    order = [
        (names[id(twins[id(module)]._parameters[key])], group)
        for group, members in enumerate(directions.groups)
        for module, key in members
    ]
    start = 0
    with torch.no_grad():
        for name, group in order:
            theta = plain.get_parameter(name)
            scale = 1.0 if scales is None else scales[group]
            theta += scale * (F[start : start + theta.numel()] @ v).view(theta.shape)
            start += theta.numel()
    assert start == len(F)
    return plain, F, [name for name, _ in order]


def bare(model: nn.Module) -> list[nn.Module]:
    r"""The modules with parameters of the body, wrappers left out, in its order."""
    return [
        m for name, m in model.base_model.named_modules()
        if m._parameters and "intrinsic" not in name
    ]  # fmt: skip


@each_family
@pytest.mark.parametrize("parts", ["all", "blocks"])
@pytest.mark.parametrize("structure", [True, False], ids=["SAID", "DID"])
def test_answers_and_gradients_are_those_of_weights_moved_by_a_dense_matrix(family, parts, structure):
    model, one = said(family, parts, structure), labelled(family, padded=True)
    plain, F, names = moved_by_hand(model, family)
    heads = {n: p for n, p in model.named_parameters() if ".copies.default." in n}
    with torch.no_grad():
        for name, parameter in heads.items():
            head, _, key = name.partition(".copies.default.")
            plain.get_submodule(head).get_parameter(key).copy_(parameter)
    ours, theirs = model(**one), plain(**one)
    torch.testing.assert_close(ours.logits, theirs.logits)
    ours.loss.backward()
    theirs.loss.backward()
    directions = model.base_model.intrinsic
    gradients = [plain.get_parameter(name).grad.flatten() for name in names]
    owners = [group for group, members in enumerate(directions.groups) for _ in members]
    v, scales = directions.subspaces["default"].v, directions.subspaces["default"].scales
    by_hand, start, of_scales = torch.zeros_like(v), 0, torch.zeros(len(directions.groups), dtype=DOUBLE)
    for group, g in zip(owners, gradients, strict=True):
        rows = F[start : start + len(g)]
        by_hand += (scales[group] if structure else 1) * rows.T @ g
        of_scales[group] += (rows @ v) @ g
        start += len(g)
    torch.testing.assert_close(v.grad, by_hand)
    assert (scales is not None) == structure
    if structure:
        torch.testing.assert_close(scales.grad, of_scales)


def test_what_moves_is_all_of_the_body_or_its_blocks():
    for family in tiny.FAMILIES:
        for parts in ("all", "blocks"):
            model = tiny.model(family)
            body = dict(model.base_model.named_parameters())
            inside = {k: p for k, p in body.items() if any(part.isdigit() for part in k.split("."))}
            expected = body if parts == "all" else inside
            method = IntrinsicSAID(d=20, parts=parts)
            directions = method.attach(model).base_model.intrinsic
            found = [module._parameters[key] for members in directions.groups for module, key in members]
            assert {id(p) for p in found} == {id(p) for p in expected.values()}
            assert len(found) == len(expected) and directions.subspaces["default"].F.d == 20 - len(directions.groups)
            assert len(directions.subspaces["default"].scales) == tiny.LAYERS + (parts == "all")


def test_in_sixteen_bits_the_sum_is_rounded_once():
    model = nonzero(IntrinsicSAID(d=20).attach(tiny.model("llama").bfloat16()), scale=3)
    directions = model.base_model.intrinsic
    subspace = directions.subspaces["default"]
    F, v, scales = subspace.F, subspace.v, subspace.scales
    moved = F(v.detach()).split(F.groups)[1] * scales[1]
    module, key = directions.groups[1][0]
    frozen = module._parameters[key]
    with torch.no_grad():
        found = directions.weights("default", 1)[0]
        expected = (frozen.float() + moved[: frozen.numel()].view(frozen.shape)).bfloat16()
    assert found.dtype == torch.bfloat16
    assert (found != expected).float().mean() < 0.01 and (found != frozen).float().mean() > 0.5


# tied weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_an_output_layer_that_is_the_embedding_moves_with_it_also_when_folded(family, tmp_path):
    method, one = IntrinsicSAID(d=20), tiny.batch()
    model = nonzero(method.attach(tiny.model(family, tie_word_embeddings=True)), scale=3)
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(last, ReparametrizedLayer)
    with torch.no_grad():
        assert first.moved("default")["weight"].data_ptr() == last.moved("default")["weight"].data_ptr()
        beside = model(**one).logits
    plain = tiny.model(family, tie_word_embeddings=True)
    method.merge(model)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.tie_word_embeddings and torch.equal(model(**one).logits, beside)
    methods.unmerge(model)
    assert torch.equal(model(**one).logits, beside)
    method.merge(model, undo=False)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**one).logits, beside)


def test_a_masked_language_model_s_output_layer_follows_as_well():
    model = nonzero(IntrinsicSAID(d=20).attach(tiny.masked("bert")), scale=3)
    decoder = model.get_output_embeddings()
    assert isinstance(decoder, ReparametrizedLayer) and set(decoder.places) == {"weight"}


# when weights are computed --------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    r"""The groups whose weights were computed, one entry each time."""
    seen, rows = [], Fastfood.rows

    def counting(self, w, group):
        seen.append(group)
        return rows(self, w, group)

    monkeypatch.setattr(Fastfood, "rows", counting)
    return seen


def test_a_forward_pass_computes_each_group_once_and_a_test_set_computes_them_once_in_all(computed):
    model, one = said("llama"), labelled("llama")
    model(**one).loss.backward()
    assert sorted(computed) == [0, 1, 2]
    assert model.base_model.intrinsic.held.weights == {}  # nothing is kept beyond the pass
    computed.clear()
    with torch.no_grad():
        for _ in range(3):
            model(**one)
        model.generate(one["input_ids"], max_new_tokens=4, do_sample=False, pad_token_id=1)
    assert sorted(computed) == [0, 1, 2]


def test_checkpointing_computes_the_weights_of_a_block_once_more(computed):
    model = said("bert").train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    model(**labelled("bert")).loss.backward()
    assert computed.count(0) == computed.count(1) == 2 and computed.count(2) == 1


def test_what_changes_a_weight_is_seen_at_the_next_forward_pass():
    model, one = said("gpt2"), labelled("gpt2")
    answers = []

    def changed() -> bool:
        with torch.no_grad():
            answers.append(model(**one).logits)
        with torch.inference_mode():
            assert torch.equal(model(**one).logits, answers[-1])
        return len(answers) == 1 or not torch.equal(*answers[-2:])

    assert changed() and not changed()
    train(model, [one])
    assert changed()
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.base_layer.weight.mul_(1.5)
    assert changed()
    methods.activate(model, None)
    assert changed()


def test_passes_may_be_added_up_and_layers_called_alone():
    model, one = said("bert"), labelled("bert")
    model(**one).loss.backward()
    once = model.bert.intrinsic.subspaces["default"].v.grad.clone()
    model.zero_grad()
    (model(**one).loss + model(**one).loss).backward()
    model(**one).loss.backward()
    torch.testing.assert_close(model.bert.intrinsic.subspaces["default"].v.grad, 3 * once)
    layer = model.bert.encoder.layer[0].output.dense
    for _ in range(2):
        layer(random(2, 3, tiny.D_FF)).sum().backward()
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[tiny.VOCAB + 5]]))  # a pass that fails is over
    layer(random(2, 3, tiny.D_FF)).sum().backward()
    layer(random(2, 3, tiny.D_FF)).sum().backward()


def test_adapters_with_the_same_directions_draw_them_once():
    model = tiny.model("opt")
    IntrinsicSAID(d=20).attach(model, "one")
    IntrinsicSAID(d=20).attach(model, "two")
    IntrinsicSAID(d=20, seed=1).attach(model, "three")
    drawn = {name: s.F for name, s in model.base_model.intrinsic.subspaces.items()}
    assert drawn["one"] is drawn["two"] and drawn["one"] != drawn["three"]
    assert copy.deepcopy(model).base_model.intrinsic.subspaces["one"].F is drawn["one"]


# what cannot work -----------------------------------------------------------------------------------------


def test_one_direction_is_enough_where_no_factors_are_taken_from_it():
    method = IntrinsicSAID(d=1, structure=False)
    assert len(method.attach(tiny.model("bert")).base_model.intrinsic.subspaces["default"].v) == 1


OTHER_BLOCKS = "is of another model: the blocks it moves have other sizes"


@pytest.mark.parametrize(("key", "value", "said"), [
    ("drawn", "0" * 16, "draws other numbers for seed 0"),
    *(("groups", value, OTHER_BLOCKS) for value in ([], None, "many", [1, "a"], [10**30, 5, 5])),
])  # fmt: skip
def test_a_checkpoint_holds_d_numbers_and_knows_when_its_directions_are_lost(key, value, said, tmp_path):
    method = IntrinsicSAID(d=20)
    method.save(nonzero(method.attach(tiny.model("llama"))), tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 4 * 20 + 400
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    fresh = tiny.model("llama")
    with refused(said, fresh):
        method.load(fresh, tmp_path)


def test_adapters_that_move_different_parts_do_not_share_a_model():
    model = said("bert")
    with pytest.raises(CourseError, match="moves parts='all', this one is to move 'blocks'"):
        IntrinsicSAID(d=20, parts="blocks").attach(model, "second")
    assert list(methods.attached(model)) == ["default"]


def test_the_row_of_the_padding_token_has_its_gradient():
    r"""It moves like every other row, so where it is read as a word the adjoint has to see it."""
    model = said("bert")
    v = model.base_model.intrinsic.subspaces["default"].v
    padding = model.get_input_embeddings().base_layer.padding_idx
    ids = torch.full((1, 5), padding)

    def loss() -> torch.Tensor:
        return model(input_ids=ids).logits.sin().sum()

    loss().backward()
    with torch.no_grad():
        step = 1e-6 * torch.eye(len(v), dtype=v.dtype)
        slope = []
        for direction in step:
            v += direction
            high = loss()
            v -= 2 * direction
            slope.append((high - loss()) / 2e-6)
            v += direction
    torch.testing.assert_close(v.grad, torch.stack(slope), atol=1e-5, rtol=1e-4)
    assert padding is not None and model.get_input_embeddings().base_layer.padding_idx == padding


def test_a_pickled_model_does_not_carry_what_was_drawn(tmp_path):
    model = said("bert")
    before = len(pickle.dumps(model))
    model(**tiny.batch())
    assert len(pickle.dumps(model)) < 1.05 * before

r"""FISH mask: scores against their definition, exact numbers, frozen entries that nothing reaches, files."""

import inspect

import pytest
import tiny
import torch
from attached import body, labelled, nonzero, refused, train
from torch import nn

from coursekit import counts, interop, methods
from coursekit.errors import CourseError
from coursekit.methods import FishMask
from coursekit.methods.mechanism.modules import all_linear
from coursekit.methods.ranking import largest
from coursekit.methods.selective.importance import SCORES, gradient
from coursekit.methods.selective.part_layer import parts_of

each_family = pytest.mark.parametrize("family", tiny.FAMILIES)
SCORE = pytest.mark.parametrize("score", list(SCORES))


def batches(family: str, n: int = 2) -> list[dict[str, torch.Tensor]]:
    return [labelled(family, seed=i, padded=family in tiny.ENCODERS) for i in range(n)]


def attached(family: str, **settings) -> nn.Module:
    method = FishMask(**({"keep": 50} | settings))
    return method.attach(tiny.model(family), batches=batches(family))


def values(model: nn.Module) -> list[nn.Parameter]:
    return [part.values for parts in parts_of(model, "default").values() for part in parts.values()]


def scored(model: nn.Module, score: str = "fisher") -> dict[str, torch.Tensor]:
    r"""The scores by the names of the parameters."""
    places = FishMask(score=score)._places(model)
    found = SCORES[score](model, list(places.values()), batches(model.config.model_type), 0)
    return {".".join(place): s for place, s in zip(places, found, strict=True)}


# scores ---------------------------------------------------------------------------------------------------


@each_family
def test_fisher_is_the_mean_of_the_squared_gradients_of_single_examples(family):
    r"""Against a loop of backward passes, and against torch's own per-example gradients (rows of one length)."""
    model, loop = tiny.model(family), {}
    examples = [
        {key: value[row : row + 1] for key, value in batch.items()} for batch in batches(family) for row in range(3)
    ]
    for example in examples:
        model.zero_grad()
        model(**example).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                loop[name] = loop.get(name, 0) + parameter.grad**2 / len(examples)
    found = scored(model)
    assert sum(score.numel() for score in found.values()) == sum(counts.blocks(model.config))
    for name, score in found.items():
        torch.testing.assert_close(score, loop[name], atol=1e-12, rtol=1e-4)


def test_scoring_leaves_the_model_as_it_was():
    model = tiny.model("bert").train()
    model.bert.embeddings.requires_grad_(False)
    flags, modes = [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    first, second = scored(model), scored(model)
    assert all(torch.equal(first[n], second[n]) for n in first)  # no dropout
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [p.requires_grad for p in model.parameters()] == flags and [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_float16_model_has_the_fisher_of_its_fp32_self():
    r"""Gradients of 1e-9 are 0 in float16; those of the last layer reach 1e5 with a loss scale, which overflows."""
    scale = {"bert.encoder.layer.0.output.dense.weight": 1e-4, "classifier.weight": 1e-4}
    half, full = tiny.model("bert", dtype=torch.float16), tiny.model("bert")
    with torch.no_grad():
        for name, parameter in half.named_parameters():
            parameter.mul_(scale.get(name, 1))
            full.get_parameter(name).copy_(parameter)  # the same weights, to the bit
    found, expected = scored(half), scored(full)
    small = [name for name, score in expected.items() if 0 < score.max() < 1e-16]
    assert len(small) > 5 and all(score.dtype == torch.float32 for score in found.values())
    for name in small:
        if expected[name].max() > 1e-24:  # below, fp16 activations themselves are too coarse
            assert found[name].max() > 0.2 * expected[name].max(), name


def test_one_loss_scale_fits_the_tensor_that_overflows_first():
    r"""Two tensors of one loss: what is large enough for the one is too large for the other."""
    small, large = (torch.ones(3, requires_grad=True) for _ in range(2))
    loss = (small.half() * 3e-4).sum() + (large.half() * 1000).sum()
    found = gradient(loss, [small, large], half=True)
    for g, slope in zip(found, (3e-4, 1000.0), strict=True):
        torch.testing.assert_close(g, torch.full((3,), slope), rtol=1e-3, atol=0)


def test_another_adapter_does_not_change_the_scores():
    alone = attached("bert")
    both = attached("bert")
    nonzero(both)
    FishMask(keep=50).attach(both, "film", batches=batches("bert"))
    first, second = FishMask(keep=50).masks(alone), FishMask(keep=50).masks(both, "film")
    assert first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


# the mask -------------------------------------------------------------------------------------------------


@SCORE
@each_family
def test_the_largest_scores_train_and_exactly_as_many_as_were_asked_for(family, score):
    model = attached(family, keep=77, score=score)
    chosen = FishMask(keep=77, score=score).masks(model)
    assert sum(int(mask.sum()) for mask in chosen.values()) == 77 == sum(v.numel() for v in values(model))
    assert FishMask(keep=77, score=score).count(model.config) == 77
    scores = scored(tiny.model(family), score)
    lowest = min(scores[name][mask].min() for name, mask in chosen.items())
    left = [s[~chosen[n]] if n in chosen else s.flatten() for n, s in scores.items()]
    assert lowest >= max(s.max() for s in left if len(s))


@pytest.mark.parametrize("keep", [10, 0.001, 1.0])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_number_is_exact_for_a_share_too(family, keep):
    model = attached(family, keep=keep, score="random")
    among = sum(counts.blocks(model.config))
    k = keep if isinstance(keep, int) else round(keep * among)
    assert body(model) == k == FishMask(keep=keep).count(model.config)


@each_family
def test_targets_choose_among_their_weights_alone(family):
    method = FishMask(keep=0.2, score="magnitude", targets="all-linear")
    model = method.attach(tiny.model(family))
    linear = {f"{path}.weight" for path in all_linear(tiny.model(family))}
    assert method.masks(model).keys() == linear
    assert sum(v.numel() for v in values(model)) == method.count(model.config)


@pytest.mark.parametrize("keep", [0, 1, 5, 11, 12])
def test_of_equal_scores_the_earlier_trains(keep):
    scores = [torch.tensor([1.0, 3.0, 1.0, 1.0]), torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([1.0] * 4)]
    flat = torch.cat([s.flatten() for s in scores])
    expected = torch.zeros(12, dtype=torch.bool)
    expected[torch.sort(flat, descending=True, stable=True).indices[:keep]] = True
    assert torch.equal(torch.cat([m.flatten() for m in largest(scores, keep)]), expected)


# files ----------------------------------------------------------------------------------------------------


@each_family
def test_a_checkpoint_brings_its_mask(family, tmp_path):
    model, one = attached(family), tiny.batch()
    train(model, [labelled(family)], lr=1e-2)
    FishMask(keep=50).save(model, tmp_path)
    for method in (FishMask(keep=50), FishMask.from_checkpoint(tmp_path), FishMask(keep=50, score="random", seed=3)):
        fresh = method.load(tiny.model(family), tmp_path)  # without batches
        assert torch.equal(fresh(**one).logits, model(**one).logits)
        assert sum(p.numel() for p in values(fresh)) == 50 and all(p.requires_grad for p in values(fresh))
    other = attached(family, score="random", seed=5)  # trained already, elsewhere
    FishMask(keep=50).load(other, tmp_path)
    assert torch.equal(other(**one).logits, model(**one).logits)
    assert {id(p) for p in values(other)} <= {id(p) for p in other._coursekit.parameters["default"]}
    learned = {id(p) for p in other._coursekit.parameters["default"]}  # none of the old mask's among them
    assert learned == {id(p) for p in other.parameters() if p.requires_grad}
    assert sum(p.numel() for p in other.parameters() if p.requires_grad) == methods.trainable(model)


def test_where_the_mask_is_the_same_the_parameters_stay(tmp_path):
    r"""So that an optimizer goes on with them."""
    model = attached("bert")
    FishMask(keep=50).save(model, tmp_path)
    before, own = [v.detach().clone() for v in values(model)], values(model)
    nonzero(model)
    FishMask(keep=50).load(model, tmp_path)
    assert all(a is b for a, b in zip(values(model), own, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(values(model), before, strict=True))


def test_loading_into_one_adapter_leaves_the_active_one_and_the_others(tmp_path):
    FishMask(keep=50).save(nonzero(attached("bert"), seed=8), tmp_path)
    model, one = tiny.model("bert"), tiny.batch()
    for seed, name in enumerate(("film", "product")):
        nonzero(FishMask(keep=50, score="random", seed=seed).attach(model, name), seed)
    film = methods.activate(model, "film")(**one).logits
    FishMask(keep=50).load(model, tmp_path, "product")
    assert torch.equal(model(**one).logits, film)
    own = {id(p) for p in model._coursekit.parameters["film"]}
    assert {id(p) for p in model.parameters() if p.requires_grad} == own
    product = methods.activate(model, "product")(**one).logits
    assert torch.equal(product, FishMask(keep=50).load(tiny.model("bert"), tmp_path)(**one).logits)


def test_a_mask_that_is_none_is_refused_and_changes_nothing(tmp_path):
    FishMask(keep=50).save(attached("bert"), tmp_path)
    config, tensors = interop.read(tmp_path)
    name = next(key for key in tensors if key.endswith("values"))
    stored = next(key for key in tensors if key.startswith(name.removesuffix("values")) and key != name)
    broken = {
        "no index": {k: v for k, v in tensors.items() if k != stored},
        "no values": {k: v for k, v in tensors.items() if k != name},
        "too short": tensors | {name: tensors[name][:-1]},
        "one place less": {k: v for k, v in tensors.items() if k not in (stored, name)},
        "other total": tensors | {"among": torch.tensor([5])},
        "no total": {k: v for k, v in tensors.items() if k != "among"},
    }
    model, fresh = nonzero(attached("bert")), tiny.model("bert")
    for what, content in broken.items():
        interop.write(tmp_path / what, config, content)
        for target in (model, fresh):
            with refused("is of another model", target):
                FishMask(keep=50).load(target, tmp_path / what)
    with pytest.raises(CourseError, match=r"trained with keep=50, .* has 51: use FishMask.from_checkpoint"):
        FishMask(keep=51).load(tiny.model("bert"), tmp_path)


# bad input ------------------------------------------------------------------------------------------------


def test_what_cannot_be_masked_is_said_and_touches_nothing():
    one = labelled("bert")
    unlabelled = {key: value for key, value in one.items() if key != "labels"}
    broken, silent = tiny.model("bert"), tiny.model("gpt2")
    with torch.no_grad():
        broken.classifier.weight.fill_(torch.nan)
        silent.transformer.ln_f.weight.zero_()  # nothing of the blocks reaches the logits
    for model, method, given, said in (
        (tiny.model("bert"), FishMask(), [unlabelled], "a batch without labels has no loss"),
        (broken, FishMask(), [one], "some fisher scores are not finite"),
        (silent, FishMask(), batches("gpt2"), "every fisher score is 0"),
        (
            tiny.model("bert"),
            FishMask(keep=10**6),
            [one],
            "keep=1,000,000 is more than the .* parameters to choose from",
        ),
    ):
        with refused(said, model):
            method.attach(model, batches=given)


@pytest.mark.parametrize(("given", "said"), [
    (labelled("bert"), "give a list of batches"),
    ([{}], "each is a dict of tensors, with one row or more"),
    ([{"input_ids": torch.zeros(0, 3, dtype=torch.long)}], "one row or more"),
])  # fmt: skip
def test_batches_that_are_none_are_said_and_touch_nothing(given, said):
    model = tiny.model("bert")
    with refused(said, model):  # without the tests' own check of types
        inspect.unwrap(FishMask.attach)(FishMask(keep=50), model, batches=given)


def test_a_mask_that_is_folded_in_is_not_read():
    model = FishMask(keep=50, score="random").attach(tiny.model("bert"))
    FishMask(keep=50, score="random").merge(model)
    with pytest.raises(CourseError, match="unmerge"):
        FishMask(keep=50, score="random").masks(model)

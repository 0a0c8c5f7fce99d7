r"""Adapters combined, and turned into LoRA: by hand, and against peft's `add_weighted_adapter` on the same tensors."""

import warnings
from typing import Any

import peft
import pytest
import tiny
import torch
from attached import nonzero, refused
from cases import CASES
from peft.utils import merge_utils
from torch import Tensor

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import IA3, LoRA, Update, combine, to_lora, update_of
from coursekit.methods.combine import HOW, elected, frozen_weight
from coursekit.qlora import quantize_model

TARGETS = ("q_proj", "down_proj")
SECOND = LoRA(r=3, alpha=10, targets=("q_proj", "up_proj"), rslora=True)


def two() -> Any:
    r"""A model with a LoRA "one" and a rsLoRA "two" of another rank; one place of each is the other's, too."""
    model = tiny.decoder("llama")
    for name, method in {"one": LoRA(r=4, alpha=6, targets=TARGETS), "two": SECOND}.items():
        method.attach(model, name)
        nonzero(model, seed=len(name) + len(method.targets[1]))
    return model


def answers(model: Any, name: str | None) -> Tensor:
    methods.activate(model, name)
    with torch.no_grad():
        return model(**tiny.batch(4)).logits


def close(one: Tensor, other: Tensor, within: float = 2e-6) -> bool:
    return bool((one - other).norm() <= within * other.norm())


def test_an_update_is_sBA_by_hand():
    model = two()
    for name, s in {"one": 6 / 4, "two": 10 / 3**0.5}.items():
        update = update_of(model, name)
        assert len(update.deltas) == 2 * model.config.num_hidden_layers
        for path, delta in update.deltas.items():
            own = model.get_submodule(path).branches[name]
            assert close(delta, s * own.B @ own.A, 1e-6) and delta.dtype == torch.float32


FOLDING = [case for case in CASES if case.folds]


@pytest.mark.parametrize("case", FOLDING, ids=lambda case: case.name)
def test_what_folds_becomes_a_lora_with_the_same_answers_or_says_what_does_not_fit(case):
    family = "llama" if "llama" in case.families else "gpt2"
    model = tiny.decoder(family, **({"num_key_value_heads": 4} if family == "llama" else {}))  # all of rank 32
    if case.quantized:
        quantize_model(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    case.make().attach(model)
    nonzero(model, scale=0.05)
    wanted = answers(model, "default")
    try:
        update = update_of(model)
    except CourseError as error:
        assert "an update holds matrices alone" in str(error) and "\n" not in str(error)
        assert torch.equal(answers(model, "default"), wanted)
        return
    assert torch.equal(answers(model, "default"), wanted)
    methods.detach(model)
    lost = to_lora(model, update, r=32)  # the full rank of every matrix here
    assert max(lost.values()) < 1e-5 and set(lost) == set(update.deltas)
    assert (answers(model, "combined") - wanted).abs().max() < 1e-3
    assert (answers(model, None) - wanted).abs().max() > 1e-3
    methods.detach(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("case", [c for c in CASES if not c.folds], ids=lambda case: case.name)
def test_what_does_not_fold_is_refused_in_one_line(case):
    model = tiny.model("llama" if "llama" in case.families else case.families[0])
    case.make().attach(model)
    with pytest.raises(CourseError, match="does not fold into the weights|trains classifier whole") as error:
        update_of(model)
    assert "\n" not in str(error.value)


def test_the_error_of_a_lower_rank_is_what_the_decomposition_leaves_over():
    model = two()
    update = combine([update_of(model, "one"), update_of(model, "two")], [1.0, 1.0])
    lost = to_lora(model, update, r=2)
    for path, delta in update.deltas.items():
        S = torch.linalg.svdvals(delta.double())
        assert lost[path] == pytest.approx(float(S[2:].norm() / S.norm()), abs=1e-5)
    path = "model.layers.0.self_attn.q_proj"
    assert lost[path] > 0.1 > to_lora(model, update, r=7, name="whole")[path]
    assert methods.attached(model)["combined"].scaling == 1 == update_of(model, "combined").deltas[path].dim() - 1


@pytest.mark.parametrize("how", HOW)
def test_weight_one_of_an_adapter_gives_it_back(how):
    model = two()
    one, other = update_of(model, "one"), update_of(model, "two")
    for updates, weights in (([one], [1.0]), ([one, other], [1.0, 0.0]), ([other, one], [0.0, 1.0])):
        found = combine(updates, weights, how)
        assert all(torch.equal(found.deltas[path], delta) for path, delta in one.deltas.items())
        assert not any(found.deltas[path].any() for path in found.deltas.keys() - one.deltas.keys())
    wanted = answers(model, "one")
    to_lora(model, combine([one, other], [1.0, 0.0], how), r=4)
    assert (answers(model, "combined") - wanted).abs().max() < 1e-4


def test_the_sum_has_no_cross_terms_and_ranks_may_differ():
    model = two()
    one, other = update_of(model, "one"), update_of(model, "two")
    found = combine([one, other], [0.7, -0.3])
    both = one.deltas.keys() & other.deltas.keys()
    assert len(both) == 2 and len(found.deltas) == 6
    for path in both:
        assert close(found.deltas[path], 0.7 * one.deltas[path] - 0.3 * other.deltas[path], 1e-6)
        assert torch.linalg.matrix_rank(found.deltas[path], rtol=1e-5) == 7


def test_ties_by_hand():
    a = torch.tensor([[4.0, -3.0, 1.0, 0.5]])
    b = torch.tensor([[-5.0, -1.0, 2.0, 0.1]])
    base = {"w": "same"}
    found = combine([Update({"w": a}, base), Update({"w": b}, base)], [1.0, 1.0], "ties", density=0.5)
    # kept: 4 -3 . . and -5 . 2 . ; signs elected: - - + ; means of those that agree
    assert found.deltas["w"].tolist() == [[-5.0, -3.0, 2.0, 0.0]]
    whole = combine([Update({"w": a}, base), Update({"w": b}, base)], [1.0, 1.0], "ties")
    assert whole.deltas["w"][0].tolist() == pytest.approx([-5.0, -2.0, 1.5, 0.3])
    assert not elected(torch.stack([a, -a])).any()  # equal and opposite


def test_dare_keeps_the_expectation_and_drops_its_share():
    one = Update({"w": torch.ones(200, 300)}, {"w": "same"})
    found = combine([one], [2.0], "dare", density=0.25, seed=3).deltas["w"]
    assert set(found.unique().tolist()) == {0.0, 8.0}
    assert abs(float((found > 0).float().mean()) - 0.25) < 0.01
    assert torch.equal(found, combine([one], [2.0], "dare", density=0.25, seed=3).deltas["w"])
    assert not torch.equal(found, combine([one], [2.0], "dare", density=0.25, seed=4).deltas["w"])


# peft -----------------------------------------------------------------------------------------------------------------


class Theirs:
    r"""peft's two adapters, and ours with the same A and B."""

    def __init__(self, weights, how, *, rslora=False, r=(4, 4), **options):
        self.weights = list(weights)
        configs = [
            peft.LoraConfig(r=n, lora_alpha=alpha, target_modules=list(TARGETS), use_rslora=rslora)
            for n, alpha in zip(r, (6, 10), strict=True)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = peft.get_peft_model(tiny.decoder("llama"), configs[0], adapter_name="one")
            self.model.add_adapter("two", configs[1])
            nonzero(self.model.requires_grad_(True))
            torch.manual_seed(5)
            self.model.add_weighted_adapter(["one", "two"], self.weights, "both", how, svd_rank=32, **options)
        base = tiny.decoder("llama")
        found = [self.deltas(name) for name in ("one", "two")]
        prints = {path: "same" for path in found[0]}
        self.updates = [Update(deltas, prints) for deltas in found]
        assert all(path.startswith("model.layers.") and frozen_weight(base, path) is not None for path in prints)

    @torch.no_grad()
    def deltas(self, name):
        layers = self.model.base_model.model.named_modules()
        return {p: m.get_delta_weight(name).detach() for p, m in layers if hasattr(m, "get_delta_weight")}

    def apart(self, how, density=1.0):
        r"""The largest relative distance of a matrix of ours from peft's."""
        ours = combine(self.updates, self.weights, how, density).deltas
        return max(float((d - ours[p]).norm() / ours[p].norm()) for p, d in self.deltas("both").items())


@pytest.mark.parametrize("weights", [(0.7, -0.3), (1.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("how", ["svd", "cat"])
def test_the_sum_is_peft_s(how, weights):
    assert Theirs(weights, how, r=(4, 2)).apart("sum") < 3e-6


@pytest.mark.parametrize("density", [0.2, 0.5])
def test_ties_is_peft_s_where_the_weights_are_equal(density):
    assert Theirs((0.6, 0.6), "ties_svd", density=density).apart("ties", density) < 3e-6


def test_peft_lets_an_adapter_of_weight_0_vote():
    theirs = Theirs((1.0, 0.0), "ties_svd", density=1.0)
    assert theirs.apart("ties") > 0.3
    one, both = (theirs.deltas(name) for name in ("one", "both"))
    assert not any(close(both[path], one[path], 0.3) for path in one)
    for path, delta in one.items():  # elected first, weighed then
        other = theirs.updates[1].deltas[path]
        sign = torch.where(delta + other >= 0, 1, -1)
        agree = torch.stack([delta.sign() == sign, other.sign() == sign])
        by_hand = delta * agree[0] / agree.sum(0).clamp(min=1)
        assert close(both[path], by_hand, 3e-6)


@pytest.mark.parametrize("how, theirs", [("dare", merge_utils.dare_linear), ("dare_ties", merge_utils.dare_ties)])
def test_dare_is_peft_s_with_the_same_random_numbers(how, theirs):
    random = torch.Generator().manual_seed(1)
    deltas = [torch.randn(20, 30, generator=random) for _ in range(3)]
    torch.manual_seed(5)
    expected = theirs(deltas, torch.tensor([0.6, 0.6, 0.6]), 0.4)
    updates = [Update({"w": delta}, {"w": "same"}) for delta in deltas]
    assert close(combine(updates, [0.6] * 3, how, 0.4, seed=5).deltas["w"], expected, 1e-6)


def test_peft_s_linear_has_cross_terms():
    theirs = Theirs((1.0, 1.0), "linear")
    layers = dict(theirs.model.base_model.model.named_modules())
    for path, both in theirs.deltas("both").items():
        A, B = ([getattr(layers[path], f"lora_{k}")[n].weight for n in ("one", "two")] for k in "AB")
        s = [layers[path].scaling[n] ** 0.5 for n in ("one", "two")]
        crossed = (s[0] * B[0] + s[1] * B[1]) @ (s[0] * A[0] + s[1] * A[1])
        assert close(both, crossed.detach(), 1e-5)
    assert theirs.apart("sum") > 0.5


def test_peft_makes_rslora_s_sum_too_large_by_the_root_of_the_rank():
    r"""peft 0.21.2 sets alpha to the rank and leaves use_rslora on. Ours is the sum. If this fails, peft was mended."""
    theirs = Theirs((0.5, 0.5), "svd", rslora=True)
    ours = combine(theirs.updates, theirs.weights).deltas
    for path, delta in theirs.deltas("both").items():
        assert close(delta, 32**0.5 * ours[path], 1e-5)


@pytest.mark.parametrize("left_out", ["use_dora", "lora_bias"])
def test_peft_combines_a_and_b_alone_and_does_not_say_so(left_out):
    r"""peft 0.21.2, issue 3761: one adapter of weight 1 does not come back. If this fails, peft was mended."""
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=list(TARGETS), **{left_out: True})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nonzero(peft.get_peft_model(tiny.decoder("llama"), config, adapter_name="one")).eval()
        model.add_weighted_adapter(["one"], [1.0], "same", "cat")
    with torch.no_grad():
        alone = model(**tiny.batch()).logits
        model.set_adapter("same")
        assert not torch.allclose(model(**tiny.batch()).logits, alone, atol=1e-3)


# What is refused ------------------------------------------------------------------------------------------------------


def test_what_makes_no_sense_is_refused_and_changes_nothing():
    model = two()
    one, other = update_of(model, "one"), update_of(model, "two")
    methods.activate(model, "two")
    for call, said in {
        (lambda: combine([one, other], [1.0])): "one weight for each update: 2 updates, 1 weights",
        (lambda: combine([], [])): "one weight for each update",
        (lambda: combine([one], [float("nan")])): "weights must be a number",
        (lambda: combine([one], [1.0], "tise")): "did you mean 'ties'",
        (lambda: combine([one], [1.0], "ties", density=0)): "density must be a number above 0 and of at most 1",
        (lambda: combine([one], [1.0], density=0.5)): "keeps all entries",
        (lambda: to_lora(model, one, r=0)): "r must be a positive integer, such as 8; got 0.",
        (lambda: to_lora(model, one, r=40)): "r=40 is above the rank of",
        (lambda: to_lora(model, one, r=2, name="two")): "already has an adapter named 'two'",
        (lambda: update_of(model, "tow")): "did you mean 'two'",
        (lambda: update_of(IA3().attach(tiny.model("bert")))): "adapter 'default' trains classifier whole",
    }.items():
        with refused(said, model):
            call()


def test_another_base_is_another_base_also_where_its_sizes_are_the_same():
    model, other = two(), tiny.decoder("llama", seed=1)
    LoRA(r=4, targets=TARGETS).attach(other)
    one, theirs = update_of(model, "one"), update_of(other)
    with pytest.raises(CourseError, match="of different bases: model.layers.0.*q_proj"):
        combine([one, theirs], [0.5, 0.5])
    with pytest.raises(CourseError, match="of another base: the weight of model.layers.0"):
        to_lora(model, theirs, r=4)
    with pytest.raises(CourseError, match="has no layer model.layers.0.self_attn.q_proj"):
        to_lora(tiny.decoder("gpt2"), one, r=4)
    broken = Update({path: delta * float("nan") for path, delta in one.deltas.items()}, one.base)
    with pytest.raises(CourseError, match="holds NaN or infinity"):
        to_lora(model, broken, r=4)
    assert set(methods.attached(model)) == {"one", "two"}


def test_a_combined_adapter_is_saved_as_any_lora_and_read_by_peft(tmp_path):
    model = two()
    to_lora(model, combine([update_of(model, "one"), update_of(model, "two")], [0.5, 0.5]), r=7)
    wanted = answers(model, "combined")
    methods.attached(model)["combined"].save(model, tmp_path, "combined")
    theirs = peft.PeftModel.from_pretrained(tiny.decoder("llama"), tmp_path)
    with torch.no_grad():
        assert (theirs(**tiny.batch(4)).logits - wanted).abs().max() < 1e-5

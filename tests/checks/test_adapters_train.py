r"""The pruned adapter is scored by what MiniLM does with it, and each mistake is told by its own name."""

from __future__ import annotations

import pytest
import torch

from coursekit.checks import adapters_train
from coursekit.checks.adapters_train import COMPRESS, KEEP, outputs
from coursekit.comparison import adapters_library


@pytest.fixture(scope="module")
def posing():
    return COMPRESS.posing(b"some batch")


def tensors(value: float = 0.0, r: int = 2) -> dict[str, torch.Tensor]:
    shapes = {"W_down": (r, 384), "b_down": (r,), "W_up": (384, r), "b_up": (384,)}
    return {f"{i}.{part}": torch.full(shape, value) for i in range(6) for part, shape in shapes.items()}


def test_what_cannot_be_an_adapter_scores_nothing(posing):
    cases = {
        'it must return the tensors that `outputs` reads, "0.W_down" to "5.b_up"': {
            "0.W_down": torch.zeros(2, 384)
        },
        "its tensors must be floating-point numbers without NaN or infinity: try a smaller learning rate": tensors(
            torch.nan
        ),
        "a shape does not fit: W_down is (r, 384), b_down (r,), W_up (384, r), b_up (384,)": tensors()
        | {"3.b_up": torch.zeros(2)},
        "it returns a head: the model's own stays as it is, and only the adapters may change": tensors(0.01)
        | {"head.W": torch.zeros(2, 384)},
        "of every adapter W_down or W_up is 0 altogether: nothing is left of it": tensors()
        | {"5.b_up": torch.ones(384)},
        f"6,918 parameters of its adapters are not 0, and {KEEP:,} are allowed: prune more, or take a narrower "
        "adapter": tensors(1.0, r=1),
    }
    for message, given in cases.items():
        scored = COMPRESS.scored(posing, given)
        assert (scored.share, scored.message) == (0.0, message)


def test_a_width_may_be_chosen_and_zeros_count_for_nothing(posing):
    ones = {"W_down": torch.ones(1, 384), "W_up": torch.ones(384, 1)}
    narrow = tensors(0.0, r=1) | {f"{i}.{part}": one for i in (3, 4, 5) for part, one in ones.items()}
    assert "allowed" not in COMPRESS.scored(posing, narrow).message
    wide = tensors(0.0, r=64) | {"0.W_down": torch.ones(64, 384), "0.W_up": torch.ones(384, 64)}
    assert COMPRESS.scored(posing, wide).message.startswith("49,152 parameters")


def test_those_to_learn_from_and_those_to_judge_by_have_no_sentence_in_common(posing):
    ids, mask, labels = posing.arguments[3:6]
    learn, judge = ({tuple(row[seen.bool()].tolist()) for row, seen in zip(*pair, strict=True)}
                    for pair in ((ids, mask), posing.kept[:2]))  # fmt: skip
    assert (
        len(ids) == adapters_train.LEARN and len(posing.kept[0]) == adapters_train.JUDGE and not learn & judge
    )
    assert 0.4 < labels.float().mean() < 0.6


def test_the_model_is_as_before_when_its_outputs_were_asked(posing):
    model, (ids, mask, _) = adapters_train.load_minilm(), posing.kept
    with torch.no_grad():
        before = model(input_ids=ids[:2], attention_mask=mask[:2]).logits
        assert torch.equal(
            outputs(model, tensors(), ids[:2], mask[:2]), before
        )  # adapters of zeros add nothing
        assert not torch.equal(outputs(model, tensors(1.0), ids[:2], mask[:2]), before)
        assert torch.equal(model(input_ids=ids[:2], attention_mask=mask[:2]).logits, before)


def test_ours_and_the_library_s_move_hidden_states_alike():
    gaps = adapters_library.gaps()
    assert [gap.method.partition("(")[0] for gap in gaps] == [
        "HoulsbyAdapter",
        "PfeifferAdapter",
        "ParallelAdapter",
    ]
    assert all(gap.largest < 1e-5 and gap.moved > 0.1 for gap in gaps)

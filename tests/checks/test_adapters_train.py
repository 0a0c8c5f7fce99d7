r"""Small adapters are scored by what MiniLM does with them, and each mistake is told by its own name."""

import time

import pytest
import torch

from coursekit.checks import adapters_train, every_kind, practice, training
from coursekit.checks.adapters_train import BUDGET, BUDGETED, COMPRESS, KEEP, outputs
from coursekit.errors import CourseError
from coursekit.methods.ranking import largest


@pytest.fixture(scope="module")
def posing():
    return COMPRESS.posing(b"some batch")


def tensors(value: float = 0.0, r: int = 32) -> dict[str, torch.Tensor]:
    shapes = {"W_down": (r, 384), "b_down": (r,), "W_up": (384, r), "b_up": (384,)}
    return {f"{i}.{part}": torch.full(shape, value) for i in range(6) for part, shape in shapes.items()}


def test_what_cannot_be_an_adapter_scores_nothing(posing):
    r"""Beside the mistakes that the self-test makes."""
    cases = {
        'it must return the tensors that `outputs` reads, "0.W_down" to "5.b_up"': {"0.W_down": torch.zeros(2, 384)},
        "of every adapter W_down or W_up is 0 altogether: nothing is left of it": tensors()
        | {"5.b_up": torch.ones(384)},
        f"24,576 parameters of its adapters are not 0, and {KEEP:,} are allowed": tensors()
        | {"0.W_down": torch.ones(32, 384), "0.W_up": torch.ones(384, 32)},
    }
    for message, given in cases.items():
        scored = COMPRESS.scored(posing, given)
        assert (scored.share, scored.message) == (0.0, message)


def test_a_budget_takes_adapters_of_any_width_and_blocks_without_one():
    asked = BUDGETED.posing(b"some batch")
    given = tensors(0.01, r=1)
    for block in range(6):
        given[f"{block}.b_up"] = torch.zeros(384)
        if block > 2:
            given[f"{block}.W_down"], given[f"{block}.W_up"] = torch.zeros(0, 384), torch.zeros(384, 0)
            given[f"{block}.b_down"] = torch.zeros(0)
    assert BUDGETED.scored(asked, given).measured is not None
    scored = BUDGETED.scored(asked, tensors(0.01, r=1))
    assert scored.message == f"6,918 parameters of its adapters are not 0, and {BUDGET:,} are allowed"


def test_zeros_count_for_nothing(posing):
    pruned = tensors()
    for i in (3, 4, 5):  # one unit of the bottleneck stays
        pruned[f"{i}.W_down"][0] = pruned[f"{i}.W_up"][:, 0] = 1.0
    assert "allowed" not in COMPRESS.scored(posing, pruned).message


def test_biases_that_do_the_work_score_nothing(posing, monkeypatch):
    monkeypatch.setattr(adapters_train, "_right", lambda given, *_: 0.7)  # whatever of them is set to 0
    few = tensors()
    few["0.W_down"][0, 0] = few["0.W_up"][0, 0] = 1.0
    scored = COMPRESS.scored(posing, few)
    assert (scored.share, scored.message, scored.measured) == (0.0, adapters_train.BIASES, 0.7)
    reads = lambda given: given["0.W_up"].any() and given["0.W_down"].any()  # noqa: E731
    monkeypatch.setattr(adapters_train, "_right", lambda given, *_: 0.7 if reads(given) else 0.5)
    assert COMPRESS.scored(posing, few).share == 1.0
    monkeypatch.setattr(adapters_train, "_right", lambda given, *_: 0.578)  # nothing was learned, by luck 3 % of it
    scored = COMPRESS.scored(posing, few)
    assert "are asked" in scored.message and scored.share < 0.2


def test_who_passes_is_told_what_was_reached(monkeypatch):
    reads = lambda given: given["0.W_up"].any() and given["0.W_down"].any()  # noqa: E731
    monkeypatch.setattr(adapters_train, "_right", lambda given, *_: 0.75 if reads(given) else 0.5)
    few = tensors(r=1)
    few["0.W_down"][0, 0] = few["0.W_up"][0, 0] = 1.0
    assert BUDGETED.looked_at(lambda *_: few, 0) == ("passed", "75.0% of new sentences are right", 1.0)
    open_ones = [one for one in every_kind().values() if isinstance(one, training.Training)]
    assert len(open_ones) > 5 and all(one.reached.format(0.5) != one.reached for one in open_ones)


@pytest.mark.slow
def test_the_figures_that_the_notebook_names_are_measured():
    posing = COMPRESS.posing(b"public")
    whole = posing.arguments[2]()
    matrices = {name: tensor for name, tensor in whole.items() if ".W_" in name}
    biases = sum(tensor.numel() for name, tensor in whole.items() if name not in matrices)
    kept = largest([tensor.abs() for tensor in matrices.values()], KEEP - biases)
    masks = dict(zip(matrices, kept, strict=True))
    cut = {name: tensor * masks.get(name, 1) for name, tensor in whole.items()}
    for given, expected in ((whole, adapters_train.WHOLE), (cut, adapters_train.CUT)):
        assert adapters_train._right(given, *posing.kept) == pytest.approx(expected, abs=0.04)


def test_those_to_learn_from_and_those_to_judge_by_have_no_sentence_in_common(posing):
    ids, mask, labels = posing.arguments[3:6]
    learn, judge = ({tuple(row[seen.bool()].tolist()) for row, seen in zip(*pair, strict=True)}
                    for pair in ((ids, mask), posing.kept[:2]))  # fmt: skip
    assert len(ids) == adapters_train.LEARN and len(posing.kept[0]) == adapters_train.JUDGE and not learn & judge
    assert 0.4 < labels.float().mean() < 0.6


def test_practice_gives_what_the_notebooks_check_gives_and_each_time_anew():
    (*_, ids, mask, labels, keep), shown = practice("adapters-compress"), COMPRESS.posing(training.PUBLIC).arguments
    assert keep == KEEP and torch.equal(ids, shown[3]) and torch.equal(labels, shown[5])
    mask.zero_()
    assert practice("adapters-compress")[4].any()
    with pytest.raises(CourseError, match="adapters-compress"):
        practice("adapters-compres")


def test_the_model_is_as_before_when_its_outputs_were_asked(posing):
    model, (ids, mask, _) = adapters_train.load_minilm(), posing.kept
    with torch.no_grad():
        before = model(input_ids=ids[:2], attention_mask=mask[:2]).logits
        assert torch.equal(outputs(model, tensors(), ids[:2], mask[:2]), before)  # adapters of zeros add nothing
        assert not torch.equal(outputs(model, tensors(1.0), ids[:2], mask[:2]), before)
        assert torch.equal(model(input_ids=ids[:2], attention_mask=mask[:2]).logits, before)


def test_whoever_waits_is_told_that_the_answer_trains(monkeypatch, capsys):
    monkeypatch.setattr(training, "PATIENCE", 0.1)
    BUDGETED.looked_at(lambda *_: time.sleep(0.5), 0)
    assert capsys.readouterr().out == "adapters_budget is training. A graded run is stopped after 4 minutes.\n"
    monkeypatch.setattr(training, "PATIENCE", 1.0)
    BUDGETED.looked_at(lambda *_: ..., 0)  # back at once: there is nothing to wait for
    time.sleep(1.5)
    assert not capsys.readouterr().out

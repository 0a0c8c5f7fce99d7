r"""The data that notebook 00 hands out for practice."""

import pytest
import torch

from coursekit.checks import check
from coursekit.checks.training_cycle_align import _both, _dpo, _imitation, _trained, log_ratios, new_pairs, target


def test_practice_has_new_pairs_on_which_an_answer_is_measured():
    (E, W0, *pairs), new = new_pairs(0)
    assert [len(part) for part in pairs] == [len(part) for part in new] == [200] * 3
    assert not torch.equal(pairs[0], new[0]) and not torch.equal(E, new_pairs(1)[0][0])
    assert log_ratios(E, W0, W0, *new) == (0.0, 0.0)
    chosen, rejected = log_ratios(E, _trained(E, W0, *pairs, _both), W0, *new)
    assert chosen > rejected
    imitated, known = log_ratios(E, _trained(E, W0, *pairs, _imitation), W0, *new)
    assert chosen - rejected > target((E, W0, *pairs), new) == 1.3 * (imitated - known)


@pytest.mark.parametrize(("loss", "said"), [
    (_dpo, "less likely than before, ln π/π₀ = -"),
    (_imitation, "the chosen answers hold, but the margin is "),
], ids=["DPO", "imitation"])  # fmt: skip
def test_one_target_of_two_is_half_of_the_points_and_the_numbers_are_said(loss, said):
    def answer(E, W0, x, chosen, rejected):
        return {"W": _trained(E, W0, x, chosen, rejected, loss)}

    result = check("training-cycle-align", answer)
    assert (result.status, result.points, result.possible) == ("failed", 2, 4)
    assert said in result.message and "(2/4 points)" in repr(result)

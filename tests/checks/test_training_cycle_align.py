r"""The data that notebook 00 hands out for practice."""

from __future__ import annotations

import torch

from coursekit.checks.training_cycle_align import _both, _trained, log_ratios, practice


def test_practice_has_new_pairs_on_which_an_answer_is_measured():
    (E, W0, *pairs), new = practice(0)
    assert [len(part) for part in pairs] == [len(part) for part in new] == [200] * 3
    assert not torch.equal(pairs[0], new[0]) and not torch.equal(E, practice(1)[0][0])
    assert log_ratios(E, W0, W0, *new) == (0.0, 0.0)
    chosen, rejected = log_ratios(E, _trained(E, W0, *pairs, _both), W0, *new)
    assert chosen > rejected

r"""quantization-codebook tells weighted levels from unweighted ones, and does not count rounds."""

import pytest

from coursekit.checks import check
from coursekit.checks.quantization_codebook import _equal, fitted


@pytest.mark.parametrize("rounds", [20, 50, 400])
def test_weighted_levels_pass_and_unweighted_ones_are_named(rounds):
    assert check("quantization-codebook", lambda x, block: fitted(x, block, steps=rounds)).status == "passed"
    wrong = check("quantization-codebook", lambda x, block: fitted(x, block, steps=rounds, weighted=False))
    assert wrong.status == "failed" and wrong.message.startswith("every weight counts the same here")


def test_another_start_passes():
    found = check("quantization-codebook", lambda x, block: fitted(x, block, start=_equal(x, block)))
    assert found.status == "passed"


def test_who_stops_too_early_is_told_to_go_on():
    early = check("quantization-codebook", lambda x, block: fitted(x, block, steps=1))
    assert early.status == "failed" and early.message.endswith("go on until they stop moving, 60 rounds or so")

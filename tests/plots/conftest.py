r"""Pictures in the course's look: in none that a test draws is anything cut off, and all are closed afterwards."""

import matplotlib.pyplot as plt
import pytest

from coursekit import plots
from tests.pictures import assert_nothing_is_cut_off


@pytest.fixture(autouse=True)
def _closed():
    plots.style()
    yield
    try:
        for number in plt.get_fignums():
            assert_nothing_is_cut_off(plt.figure(number))
    finally:
        plt.close("all")

r"""Pictures in the course's look, closed after each test."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from coursekit import plots


@pytest.fixture(autouse=True)
def _closed():
    plots.style()
    yield
    plt.close("all")

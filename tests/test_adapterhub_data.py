r"""Notebook 02 shows parity with the `adapters` library from `data/adapterhub/`, which an installed course has too."""

from __future__ import annotations

from pathlib import Path

import pytest

from coursekit import adapterhub
from coursekit.methods import HoulsbyAdapter, ParallelAdapter, PfeifferAdapter
from coursekit.paths import DATA

FIXTURES = Path(__file__).parent / "fixtures" / "adapters"
COPIED = sorted(p.relative_to(DATA / "adapterhub") for p in (DATA / "adapterhub").rglob("*") if p.is_file())


@pytest.mark.parametrize("path", COPIED, ids=str)
def test_it_is_what_the_script_of_the_fixtures_made(path):
    stored = FIXTURES / path if len(path.parts) == 1 else FIXTURES / "bert" / path
    assert (DATA / "adapterhub" / path).read_bytes() == stored.read_bytes()


def test_it_holds_the_three_placements_that_the_library_has():
    kinds = {
        name: type(adapterhub.read_method(DATA / "adapterhub" / name))
        for name in ("houlsby", "pfeiffer", "parallel")
    }
    assert kinds == {"houlsby": HoulsbyAdapter, "pfeiffer": PfeifferAdapter, "parallel": ParallelAdapter}
    assert len(COPIED) == 7

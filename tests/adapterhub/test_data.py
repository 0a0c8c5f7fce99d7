r"""Notebooks 02 and 09 compare with the `adapters` library by `data/adapterhub/`, which an installed course has too."""

from __future__ import annotations

from pathlib import Path

import pytest

from coursekit import adapterhub
from coursekit.methods import (
    Compacter,
    CompacterPlus,
    HoulsbyAdapter,
    MAMAdapter,
    ParallelAdapter,
    PfeifferAdapter,
    UniPELT,
)
from coursekit.paths import DATA

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "adapters"
COPIED = sorted(p.relative_to(DATA / "adapterhub") for p in (DATA / "adapterhub").rglob("*") if p.is_file())


@pytest.mark.parametrize("path", COPIED, ids=str)
def test_it_is_what_the_script_of_the_fixtures_made(path):
    stored = FIXTURES / path if len(path.parts) == 1 else FIXTURES / "bert" / path
    assert (DATA / "adapterhub" / path).read_bytes() == stored.read_bytes()


def test_it_holds_the_three_placements_and_the_hybrids_that_the_library_has():
    bottlenecks = {
        "houlsby": HoulsbyAdapter,
        "pfeiffer": PfeifferAdapter,
        "parallel": ParallelAdapter,
        "compacter": Compacter,
        "compacterpp": CompacterPlus,
    }
    for name, kind in bottlenecks.items():
        assert type(adapterhub.read_method(DATA / "adapterhub" / name)) is kind
    for name, kind in {"mam": MAMAdapter, "unipelt": UniPELT}.items():
        assert type(adapterhub.read_method(DATA / "adapterhub" / name)) is kind
    assert len(COPIED) == 2 * (len(bottlenecks) + 2) + 1

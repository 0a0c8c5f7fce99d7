r"""Shared by all tests: quiet libraries, shape checks at run time, and what a GPU test needs."""

import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# Two cores serve everything: more threads than that only slow the tests down.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")
# No test may depend on the hub: what is not local must fail at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

sys.path.insert(0, str(Path(__file__).parent))

# Before anything imports distutils, which setuptools replaces: torch.compile needs it, and takes no other order.
with suppress(ImportError):
    import setuptools  # noqa: F401

import shapes

# `Float[Tensor, "batch seq"]` becomes a checked promise for every module imported from here on.
_SHAPES = shapes.install()
# As in coursekit/cli.py: jsonschema's grammar for addresses, of which notebooks have none, takes two seconds.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
# Until the tests begin: what is imported and collected stays, and looking for what could go is a seventh of the time.
gc.disable()

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


#: The files that take longest: begun first, they leave no process alone at the end. Between two that grade, whose boxes
#: use both cores, stands one that does not.
LONGEST = (
    "test_hostile", "test_every_method", "test_batch", "test_any_model", "test_site", "test_memory", "test_training",
    "test_trained_tensors", "test_secret", "test_again", "test_selftest",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    r"""With `-n 2` a file is run by one process, so that a graded batch, a trained model or cases that were drawn are
    made once; and so are the pages, which the files in `site` look at. (xdist's own groups do nothing with pytest 9.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "site" if "/site/" in file else file

    config.option.loadscopereorder = False  # the order is that of the items
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_tests:
        return
    if not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU, and PyTorch finds none"))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what was imported stays: a collection need not walk through all of it again
    gc.enable()


def pytest_runtest_setup() -> None:
    shapes.test += 1
    torch.manual_seed(0)  # so that no test hangs on which tests its process ran before


@pytest.fixture(scope="session")
def root() -> Path:
    r"""The checkout."""
    return ROOT


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    r"""An empty cache of its own, for tests that fetch or damage."""
    monkeypatch.setenv("COURSEKIT_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def plain_bitsandbytes():
    r"""For odd sizes bitsandbytes compiles C++ code, which takes seconds and changes no result."""
    with torch.compiler.set_stance("force_eager"):
        yield

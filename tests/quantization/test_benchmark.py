r"""The benchmark of quantization, on a small matrix."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner, Result

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "quantize.py"


@pytest.fixture
def benchmark(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)  # as when it is run: its helpers lie beside it
    spec = importlib.util.spec_from_file_location("benchmark_of_quantization", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    # Copying little takes little time; how fast the copies of a small matrix are is not looked at here.
    monkeypatch.setattr(module, "copy_speed", partial(module.copy_speed, nbytes=2**20))
    return module


def run(benchmark: ModuleType, *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(benchmark.main)
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("code", ["nf4", "fp4"])
def test_the_benchmark_runs_on_a_small_matrix(benchmark, code):
    done = run(benchmark, "--size", "128", "--rounds", "3", "--code", code)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = ["quantize", "dequantize", "dequantize into a buffer"]
    assert [(row["dtype"], row["what"]) for row in rows] == [(d, k) for d in ("fp32", "bf16") for k in kinds]
    for row in rows:
        assert row["code"] == code and row["size"] == 128 and row["rounds"] == 3
        assert row["values_that_differ"] < 1e-4
        low, high = row["ratio_quartiles"]
        assert 0 < low <= row["ratio"] <= high and len(row["ms"]) == len(row["bandwidth"]) == 2


def test_names_that_do_not_exist(benchmark):
    for arguments, said in ((("--dtype", "bf17"), "unknown dtype 'bf17'; did you mean 'bf16'?"),
                            (("--code", "nf5"), "unknown code 'nf5'; did you mean 'nf4'?")):  # fmt: skip
        done = run(benchmark, *arguments)
        assert done.exit_code == 1 and said in str(done.exception) + done.output

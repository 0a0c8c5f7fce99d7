r"""The benchmark of quantization, on a small matrix."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "quantize.py"


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("code", ["nf4", "fp4"])
def test_the_benchmark_runs_on_a_small_matrix(code, tmp_path):
    done = run("--size", "128", "--rounds", "3", "--code", code, "--out", str(tmp_path / "rows"))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert rows == [json.loads(line) for line in done.stdout.splitlines()]
    kinds = ["quantize", "dequantize", "dequantize into a buffer"]
    assert [(row["dtype"], row["what"]) for row in rows] == [(d, k) for d in ("fp32", "bf16") for k in kinds]
    for row in rows:
        assert row["code"] == code and row["size"] == 128 and row["rounds"] == 3
        assert row["values_that_differ"] < 1e-4
        low, high = row["ratio_quartiles"]
        assert 0 < low <= row["ratio"] <= high and len(row["ms"]) == len(row["bandwidth"]) == 2


def test_names_that_do_not_exist():
    for arguments, said in ((("--dtype", "bf17"), "unknown dtype 'bf17'; did you mean 'bf16'?"),
                            (("--code", "nf5"), "unknown code 'nf5'; did you mean 'nf4'?")):  # fmt: skip
        done = run(*arguments)
        assert done.returncode == 1 and said in done.stderr

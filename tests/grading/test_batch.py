r"""Batches: the same bytes twice, stopped at any moment and gone on with, one grader at a time, one part at a time."""

import concurrent.futures
import copy
import fcntl
import functools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_up
import psutil
import pytest
from conftest import NOTEBOOK
from hostile import files
from typer.testing import CliRunner

from coursekit.cli import app
from coursekit.errors import CourseError
from coursekit.grading import batch as batches
from coursekit.grading.folder import Batch
from coursekit.grading.limits import Limits
from coursekit.grading.plan import plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, solved: dict) -> Path:
    place = tmp_path_factory.mktemp("submissions")
    partly = copy.deepcopy(solved)
    source = "def lora_merge(W, A, B, alpha):\n    h = W + alpha / len(A) * B @ A\n"
    files.cell_of(partly, "lora_merge")["source"] = source + "    return (h + len(A) % 2).to(W.dtype)"
    ends = copy.deepcopy(solved)
    files.cell_of(ends, "lora_linear")["source"] = (
        "import os\nclass LoRALinear:\n    def __init__(self, *given, **more):\n        os._exit(3)"
    )
    for name, notebook in (("ada", solved), ("dan", partly), ("eve", ends)):
        files.save(place, f"{name}.ipynb", notebook)
    (place / "fay.ipynb").write_text("{")
    return place


def planned(out: Path, folder: Path, **more: object) -> Batch:
    batch = Batch(out)
    batch.make()
    (batch.out / "secret").write_text("5" * 64)
    plan(folder, batch, "bwrap", notebook=NOTEBOOK, limits=Limits(exercise=20), **more)
    return batch


def content(batch: Batch) -> dict[str, str]:
    r"""The bytes of all results, without the times."""
    found = {}
    for path in sorted(batch.results.iterdir()):
        data = json.loads(path.read_text())
        assert set(data["times"]) >= (
            {"gate", "run", "probe", "verify"} if data["status"] != "infrastructure" else set()
        )
        found[path.name] = path.read_text().replace(json.dumps(data.pop("times")), "")
        found[path.name] = json.dumps(data, sort_keys=True)
    return found


@pytest.fixture(scope="module")
def graded(box: str, tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Batch:
    batch = planned(tmp_path_factory.mktemp("graded") / "marks", folder)
    batches.grade_lines(batch, jobs=2)
    return batch


def by_name(batch: Batch) -> dict[str, dict]:
    return {line["submission"]: batch.result(line["key"]) for line in batch.lines()}


def test_each_ends_as_it_was_made_to(graded: Batch):
    ends = {"ada": "ok", "dan": "wrong", "eve": "kernel_died", "fay": "invalid_notebook"}
    assert {name: r["status"] for name, r in by_name(graded).items()} == ends


def test_a_result_has_its_schema(graded: Batch):
    for line in graded.lines():
        result = json.loads((graded.results / f"{line['key']}.json").read_text())
        assert list(result) == sorted(result)
        assert {"schema", "submission", "notebook", "key", "status", "message", "where", "ran", "box", "unsafe",
                "exercises", "files", "times"} == set(result)  # fmt: skip
        assert (result["schema"], result["ran"], result["box"], result["unsafe"]) == (1, "exercises", "bwrap", False)
        for exercise in result["exercises"]:
            assert set(exercise) == {
                "id",
                "points",
                "of",
                "status",
                "message",
                "cases",
                "right",
                "copies",
                "ran",
                "measured",
            }
    assert not (graded.out / ".work").exists()


def test_a_batch_that_is_killed_at_any_moment_ends_with_the_same_marks(graded: Batch, folder: Path, tmp_path: Path):
    batch = planned(tmp_path / "marks", folder)
    code = "from pathlib import Path; from coursekit.grading import batch, folder\n"
    code += f"batch.grade_lines(folder.Batch(Path({str(batch.out)!r})), jobs=2)"
    events = batch.out / "events.jsonl"
    for moment in random.Random(0).sample(range(2, 12), 3):
        before = len(events.read_text().splitlines()) if events.exists() else 0
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
            until = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < until:
                if events.exists() and len(events.read_text().splitlines()) > before + moment % 5:
                    break
                time.sleep(0.01)
            time.sleep(random.Random(moment).random() / 2)
            process.kill()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        batches.grade_lines(batch, executor=pool)
    assert content(batch) == content(graded)
    until = time.monotonic() + 20
    while time.monotonic() < until and left(batch):
        time.sleep(0.2)
    assert not left(batch) and not (batch.out / ".work").exists()


def left(batch: Batch) -> list:
    return [p.info for p in psutil.process_iter(["cmdline", "environ", "cwd"]) if str(batch.out) in str(p.info)]


def test_what_is_graded_stays_and_what_changed_is_graded_again(
    graded: Batch, folder: Path, tmp_path: Path, solved: dict
):
    place = tmp_path / "submissions"
    shutil.copytree(folder, place)
    batch = planned(tmp_path / "marks", place)
    shutil.copytree(graded.results, batch.results, dirs_exist_ok=True)
    count = len(graded.lines())
    assert len(batches.grade_lines(batch)) == count
    assert "begin" not in (batch.out / "events.jsonl").read_text()
    files.save(place, "fay.ipynb", solved)
    planned(batch.out, place)
    results = {r["submission"]: r["status"] for r in batches.grade_lines(batch, keep=True)}
    assert results["fay"] == "ok" and (batch.out / "events.jsonl").read_text().count('"begin"') == 1
    batches.grade_lines(batch, only=["ada"], everything=True)
    assert (batch.out / "events.jsonl").read_text().count('"begin"') == 2
    assert '"points_before": ' in (batch.out / "audit.jsonl").read_text()
    with pytest.raises(CourseError, match="unknown submission 'zoe'"):
        batches.grade_lines(batch, only=["zoe"])


def test_one_line_at_a_time_as_schedulers_do(graded: Batch, folder: Path, tmp_path: Path):
    batch = planned(tmp_path / "marks", folder)
    run = CliRunner().invoke
    index = next(line["index"] for line in batch.lines() if line["submission"] == "ada")
    done = run(app, ["grade", "one", "--out", str(batch.out), "--index", str(index)])
    assert done.exit_code == 0 and done.output == "ada: ok\n", done.output
    assert run(app, ["grade", "one", "--out", str(batch.out), "--index", str(index)]).output == "ada: ok\n"
    assert (batch.out / "events.jsonl").read_text().count('"begin"') == 1
    name = next(iter(batch.results.iterdir())).name
    assert content(batch)[name] == content(graded)[name]
    assert "the lines 0 to 3" in run(app, ["grade", "one", "--out", str(batch.out), "--index", "99"]).output


def test_parsl_grades_too(graded: Batch, folder: Path, tmp_path: Path):
    pytest.importorskip("parsl", reason="the extra `parsl` is not installed")
    from parsl.concurrent import ParslPoolExecutor
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    batch = planned(tmp_path / "marks", folder)
    local = HighThroughputExecutor(
        address="127.0.0.1", max_workers_per_node=1, provider=LocalProvider(init_blocks=1, max_blocks=1)
    )
    with ParslPoolExecutor(Config(executors=[local], run_dir=str(tmp_path / "parsl"))) as pool:
        batches.grade_lines(batch, executor=pool)
    assert content(batch) == content(graded)


def test_a_second_grader_is_refused(tmp_path: Path, folder: Path):
    batch = Batch(tmp_path / "marks")
    batch.make()
    with (batch.out / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CourseError, match="another grader is working"), batch.lock():
            pass
        with pytest.raises(CourseError, match="another grader is working"), batch.lock(shared=True):
            pass
    with batch.lock(shared=True), batch.lock(shared=True), pytest.raises(CourseError), batch.lock():
        pass


def test_without_a_box_nothing_is_run_and_the_error_is_the_probes_own(tmp_path: Path, folder: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(app, ["grade", str(folder), "--out", str(tmp_path / "marks")])
    assert done.exit_code == 1 and "bwrap: not installed" in done.output and "podman: not installed" in done.output
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho setting up uid map: Permission denied >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    done = CliRunner().invoke(app, ["grade", str(folder), "--out", str(tmp_path / "marks"), "--box", "bwrap"])
    assert done.exit_code == 1 and "setting up uid map: Permission denied" in done.output
    assert not list((tmp_path / "marks" / "results").iterdir())


def test_checks_that_cannot_be_loaded_are_nobodys_fault_but_the_graders(
    box: str, tmp_path: Path, folder: Path, monkeypatch
):
    (tmp_path / "torch.py").write_text("import no_such_package\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # for the judge, which is a process of its own
    batch = planned(tmp_path / "marks", folder)
    command = ["--out", str(batch.out), "--notebook", str(NOTEBOOK), "--box", "bwrap"]
    done = CliRunner().invoke(app, ["grade", str(folder), *command])
    assert done.exit_code == 3 and isinstance(done.exception, SystemExit), done.output
    said = done.stderr.splitlines()
    assert len(said) == 1 and "cannot be loaded (ModuleNotFoundError: No module named 'no_such_package')" in said[0]
    results = [json.loads(path.read_text()) for path in batch.results.iterdir()]
    assert [r["status"] for r in results] == ["infrastructure"] * len(batch.lines())
    one = CliRunner().invoke(app, ["grade", "one", "--out", str(batch.out), "--index", "0"])
    assert (one.exit_code, one.stdout) == (3, "ada: infrastructure\n") and "no_such_package" in one.stderr


@pytest.mark.slow
def test_without_isolation_every_result_says_so(tmp_path: Path, folder: Path):
    place = tmp_path / "submissions"
    place.mkdir()
    for name in ("ada", "eve"):
        shutil.copy(folder / f"{name}.ipynb", place)
    done = CliRunner().invoke(
        app,
        ["grade", str(place), "--out", str(tmp_path / "marks"), "--unsafe-no-isolation", "--notebook", str(NOTEBOOK)],
    )
    assert done.exit_code == 0, done.output
    for name, result in by_name(Batch(tmp_path / "marks")).items():
        assert result["unsafe"] and result["box"] == "none"
        assert (result["status"], name) in (("ok", "ada"), ("kernel_died", "eve"))


@pytest.mark.slow
def test_a_complete_notebook_is_run_when_asked_for(box: str, tmp_path: Path, solved: dict):
    place = tmp_path / "submissions"
    place.mkdir()
    answers = [c for c in solved["cells"] if c["metadata"].get("nbgrader", {}).get("solution")]
    imports = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
    source = f"{imports}from coursekit.notebook import built\nsteps = 1\nvariant = 0"
    head = made_up.cell(source, "head", tags=["parameters"])
    ends = {
        "ok": "from coursekit.checks import practice, yours\n"
        "assert all(torch.is_tensor(practice(id='lora-truncate', case=n)[0]) for n in range(3))\n"
        "try:\n    practice('lora-truncate', 9)\nexcept LookupError:\n    pass\n"
        "assert yours('lora-linear', None, part=3) == 3",
        "incomplete": "import sys\nsys.exit(0)",
        "error": "1 / 0",
        "kernel_died": "import os\nos._exit(0)",
        "timeout": "while True: pass",
        "output_limit": "print('x' * 10_000_000)\nimport time\ntime.sleep(20)",  # not yet in the next cell
    }
    for status, source in ends.items():
        last = [made_up.cell(source, "end"), made_up.cell("2", "behind")]
        files.save(place, f"{status}.ipynb", {**solved, "cells": [head, *answers, *last]})
    command = [
        "grade",
        str(place),
        "--out",
        str(tmp_path / "marks"),
        "--whole",
        "--whole-minutes",
        "0.5",
        "--jobs",
        "2",
    ]
    done = CliRunner().invoke(app, [*command, "--notebook", str(NOTEBOOK)])
    assert done.exit_code == 0, done.output
    results = by_name(Batch(tmp_path / "marks"))
    assert {name: r["status"] for name, r in results.items()} == {status: status for status in ends}
    for status, result in results.items():
        assert result["ran"] == "whole" and all(e["status"] == "ok" for e in result["exercises"]), status
        end = len(answers) + 2  # after the head, in a count from 1
        assert result["where"] == (None if status == "ok" else f"cell {end}"), status


def test_ctrl_c_ends_a_batch_that_goes_on_later(graded: Batch, folder: Path, tmp_path: Path):
    batch = planned(tmp_path / "marks", folder)
    command = [
        sys.executable,
        "-m",
        "coursekit.cli",
        "grade",
        str(folder),
        "--out",
        str(batch.out),
        "--notebook",
        str(NOTEBOOK),
        "--box",
        "bwrap",
    ]
    # Started in the background by a shell, this process ignores SIGINT and would pass that on.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = dict(stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    with subprocess.Popen(command, preexec_fn=heed, **pipes) as process:
        until = time.monotonic() + 120
        while time.monotonic() < until and not (batch.out / "results").is_dir():
            time.sleep(0.05)
        while time.monotonic() < until and not list((batch.out / "results").glob("[!.]*")):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130 and "run the same command again" in said, said
    assert not left(batch) and not (batch.out / ".work").exists()
    assert 1 <= len(list(batch.results.glob("[!.]*"))) <= len(graded.lines())

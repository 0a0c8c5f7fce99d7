r"""The command line: help at once, one line for what the user can put right, and the right exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]


def coursekit(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "coursekit.cli", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "100"} | environment
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_help_names_every_command_and_loads_nothing_heavy():
    done = coursekit("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("fetch", "run", "colab", "solve", "info"))
    heavy = ("torch", "transformers", "papermill", "datasets")
    code = f"import sys, coursekit.cli; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "" and done.returncode == 0, done.stderr


def one_line(done: subprocess.CompletedProcess, says: str) -> None:
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("coursekit: ") and says in line


def test_errors_are_one_line_and_status_1(tmp_path):
    notebook = tmp_path / "n.ipynb"
    cell = nbformat.v4.new_code_cell("steps = 60", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), notebook)
    one_line(coursekit("run", "none.ipynb", cwd=tmp_path), "there is no notebook none.ipynb")
    one_line(coursekit("run", cwd=tmp_path), "no notebooks")
    one_line(
        coursekit("run", "n.ipynb", "-p", "steps=ten", cwd=tmp_path), "'steps' expects int, got 'ten' (str)"
    )
    one_line(coursekit("run", "n.ipynb", "-p", "stepss=1", cwd=tmp_path), "did you mean 'steps'")
    one_line(coursekit("run", "n.ipynb", "-p", "steps", cwd=tmp_path), "write name=value")
    one_line(coursekit("run", "n.ipynb", "--profile", "smoke", cwd=tmp_path), "unknown profile 'smoke'")
    one_line(coursekit("colab", cwd=tmp_path), "run this in the checkout")
    one_line(
        coursekit("solve", "n.ipynb", "-o", "s.ipynb", cwd=tmp_path), "there are no solutions for n.ipynb"
    )
    assert not (tmp_path / "runs").exists()


def test_wrong_usage_is_status_2():
    for arguments in (["solve"], ["run", "--no-such"], ["nothing"]):
        assert coursekit(*arguments).returncode == 2


def test_no_network_and_an_empty_cache_is_one_line(tmp_path):
    done = coursekit(
        "fetch",
        COURSEKIT_HOME=str(tmp_path),
        PIP_CONFIG_FILE=os.devnull,
        PIP_FIND_LINKS="",
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith("coursekit: cannot download vaderSentiment 3.2.1: no conn")
    )


def test_info_says_where_things_are(cache):
    (cache / "thing-1").mkdir(parents=True)
    (cache / "thing-1" / "file").write_bytes(b"x" * 2_000_000)
    done = coursekit("info", DEVICE="cpu")
    assert done.returncode == 0, done.stderr
    assert str(cache) in done.stdout and "cpu, float32" in done.stdout
    assert any(line.split() == ["thing-1", "2.0", "MB"] for line in done.stdout.splitlines())


def test_info_with_a_device_that_is_not_there_is_one_line(cache):
    one_line(coursekit("info", DEVICE="abacus"), "DEVICE=abacus")


@pytest.mark.slow
def test_the_status_of_a_batch_says_whether_all_went_well(tmp_path):
    for name, source in (("good", "1"), ("bad", "1 / 0")):
        cells = [nbformat.v4.new_code_cell(source)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    done = coursekit("run", "good.ipynb", cwd=tmp_path)
    assert done.returncode == 0 and "1 of 1 ok" in done.stdout, done.stderr
    done = coursekit("run", "bad.ipynb", "good.ipynb", cwd=tmp_path)
    assert done.returncode == 1 and "1 of 2 ok" in done.stdout
    assert "bad.ipynb: failed" in done.stderr and "ZeroDivisionError: division by zero" in done.stderr


@pytest.mark.slow
def test_being_terminated_leaves_no_kernel(tmp_path):
    import psutil

    pid = tmp_path / "pid"
    source = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / "n.ipynb")
    command = [sys.executable, "-m", "coursekit.cli", "run", "n.ipynb"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert not psutil.pid_exists(int(pid.read_text()))


SOLUTIONS = '''\
r"""Answers."""
from __future__ import annotations
import math
from functools import lru_cache

SCALE = 2
UNUSED = 3


def helper(x):
    return SCALE * x


@lru_cache
def toy_double(x):
    return helper(x) * math.floor(1.5)  # a comment that stays


def toy_other(x):
    return x
'''


@pytest.fixture
def exercise(tmp_path) -> Path:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "tests" / "solutions").mkdir(parents=True)
    (tmp_path / "tests" / "solutions" / "01_toy.py").write_text(SOLUTIONS)

    def cell(grade_id, source):
        nbgrader = {"grade": False, "solution": True, "locked": False, "points": 1, "grade_id": grade_id}
        nbgrader |= {"schema_version": 3, "task": False}
        return nbformat.v4.new_code_cell(source, metadata={"nbgrader": nbgrader})

    cells = [
        nbformat.v4.new_code_cell(
            "keep = 1", outputs=[nbformat.v4.new_output("stream", text="x")], execution_count=3
        ),
        cell("toy-double", "before = 1\n\n\ndef toy_double(x):\n    ...\n\n\nanswer = toy_double(4)"),
        cell("toy-other", "%matplotlib inline\ndef toy_other(x:"),
    ]
    path = tmp_path / "notebooks" / "01_toy.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_solve_answers_every_exercise(exercise, tmp_path):
    out = tmp_path / "solved" / "01_toy.ipynb"
    done = coursekit("solve", str(exercise), "-o", str(out))
    assert done.returncode == 0 and "toy-double, toy-other" in done.stdout, done.stderr
    cells = nbformat.read(out, 4).cells
    assert cells[0].source == "keep = 1" and cells[0].outputs == [] and cells[0].execution_count is None
    assert "UNUSED" not in cells[1].source and "# a comment that stays" in cells[1].source
    assert "@lru_cache" not in cells[1].source
    exec(cells[1].source, space := {})
    assert space["answer"] == 8 and space["before"] == 1
    exec(cells[2].source, space := {})
    assert space["toy_other"](5) == 5


def test_solve_says_what_is_missing(exercise, tmp_path):
    solutions = tmp_path / "tests" / "solutions" / "01_toy.py"
    solutions.write_text(SOLUTIONS.replace("toy_other", "toy_another"))
    one_line(
        coursekit("solve", str(exercise), "-o", "x.ipynb", cwd=tmp_path), "must define the function toy_other"
    )
    plain = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    nbformat.write(plain, exercise)
    one_line(coursekit("solve", str(exercise), "-o", "x.ipynb", cwd=tmp_path), "has no exercise")
    one_line(
        coursekit("solve", "none.ipynb", "-o", "x.ipynb", cwd=tmp_path), "there is no notebook none.ipynb"
    )
    assert not (tmp_path / "x.ipynb").exists()

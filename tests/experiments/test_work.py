r"""Several processes, one file: no run twice, nothing lost, nobody left behind."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest

from coursekit.batch.processes import side_by_side
from coursekit.errors import CourseError
from coursekit.experiments import table, work
from coursekit.experiments.recipe import Arm, Grid
from coursekit.experiments.run import Unfit
from coursekit.experiments.table import Cell, Run, Store

RATES = (1e-3, 3e-3, 1e-2)
GRID = Grid("t", (Arm("a", None, RATES), Arm("b", None, RATES)), "a", steps=100, points=10)


def silent(line: str) -> None:
    pass


def carry(recipe, cell: Cell) -> list[Run]:
    value = 0.8 - 0.1 * abs(math.log10(cell.rate / 3e-3)) - (0.2 if cell.arm == "b" else 0)
    return [Run(cell, ((cell.steps, value),), tuple(i < round(value * 50) for i in range(50)), 7, 1.0)]


def run_of(arm: str = "a", seed: int = 0, seconds: float = 1.0) -> Run:
    return Run(Cell(arm, 100, 1e-3, seed), ((50, 0.5), (100, 0.6)), (True, False, True), 7, seconds)


def test_a_torn_last_line_is_no_run_and_makes_way(tmp_path):
    store = Store(tmp_path / "e.csv")
    store.add([run_of(seed=0)])
    store.path.write_text(store.path.read_text() + "a,100,0.001,1,7,1.0,50:0.5")
    assert store.runs() == [run_of(seed=0)]
    store.add([run_of(seed=1)])
    assert store.runs() == [run_of(seed=0), run_of(seed=1)]


def test_of_two_runs_of_one_cell_the_first_stays_and_what_is_done_is_not_claimed(tmp_path):
    store = Store(tmp_path / "e.csv")
    assert store.claim([run_of().cell]) == run_of().cell
    store.add([run_of(seconds=1.0)])
    store.add([run_of(seconds=2.0)])
    assert [run.seconds for run in store.runs()] == [1.0] and store.claim([run_of().cell]) is None


def test_another_schema_is_said_in_a_line_and_left_alone(tmp_path):
    (tmp_path / "e.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CourseError, match="e.csv is no file of runs"):
        Store(tmp_path / "e.csv").add([run_of()])
    assert (tmp_path / "e.csv").read_text() == "a,b\n1,2\n"
    with pytest.raises(CourseError, match="cannot write"):
        Store(tmp_path / "e.csv" / "f.csv")


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    store = Store(tmp_path / "e.csv")
    store.add([run_of()])
    before = store.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as later:
        later.setattr(table, "replace_text", full)
        with pytest.raises(CourseError, match="No space left on device; what it held is there still") as error:
            store.add([run_of(seed=1)])
    assert store.path.read_bytes() == before and "\n" not in str(error.value)


def test_one_file_has_one_lock_whatever_it_is_called(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "data" / "e.csv")
    one, other = Store(tmp_path / "data" / "e.csv"), Store(tmp_path / "link.csv")
    assert one.claim([run_of().cell]) is not None and other.claim([run_of().cell]) is None
    other.add([run_of()])
    assert (tmp_path / "link.csv").is_symlink() and one.runs() == [run_of()]


def test_the_claim_of_a_process_that_died_is_void(tmp_path):
    cells = [run_of(seed=seed).cell for seed in range(2)]
    code = f"""
        import sys
        from coursekit.experiments.table import Cell, Store
        cells = [Cell('a', 100, 1e-3, s) for s in range(2)]
        print(Store({str(tmp_path / "e.csv")!r}).claim(cells).seed, flush=True)
        sys.stdin.read()
        """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "0\n"
    here = Store(tmp_path / "e.csv")
    assert here.claim(cells) == cells[1] and here.claim(cells) is None
    other.stdin.close()
    other.wait()
    assert here.claim(cells) == cells[0]


def test_a_grid_that_was_stopped_goes_on_to_the_same_file(tmp_path):
    whole, parts = Store(tmp_path / "whole.csv"), Store(tmp_path / "parts.csv")
    work.work(GRID, whole, carry, silent)
    stops = {0, 3, 15}

    def stopping(recipe, cell: Cell) -> list[Run]:
        if (n := len(parts.runs())) in stops:
            stops.remove(n)
            raise KeyboardInterrupt
        return carry(recipe, cell)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            work.work(GRID, parts, stopping, silent)
    work.work(GRID, parts, stopping, silent)
    assert parts.path.read_bytes() == whole.path.read_bytes() and not list(parts.claims.glob("*.json"))


def test_an_arm_that_does_not_fit_is_left_out_and_said(tmp_path):
    said = []

    def picky(recipe, cell: Cell) -> list[Run]:
        if cell.arm == "a":
            raise Unfit("no task head")
        return carry(recipe, cell)

    grid = work.work(GRID, Store(tmp_path / "e.csv"), picky, said.append)
    assert [arm.name for arm in grid.arms] == ["b"] and said[0] == "a is left out: no task head"
    with pytest.raises(Unfit):
        work.work(replace(GRID, arms=GRID.arms[:1]), Store(tmp_path / "f.csv"), picky, silent)


def test_progress_says_what_is_left_and_about_how_long():
    assert work.progress(GRID, []) == "0 of 2 arms settled, 0 runs made, 6 to go"
    runs = [replace(carry(None, Cell("a", 100, rate, s))[0], seconds=120.0) for rate in RATES for s in range(3)]
    runs.append(Run(Cell("constant", 0, 0.0, 0), ((0, 0.5),), (True,), 0, 0.0))
    assert work.progress(GRID, runs, 2) == "1 of 2 arms settled, 9 runs made, 3 to go, 3 min or more left"


def test_processes_that_fail_are_counted_and_none_is_left():
    code = "import os, sys; sys.exit(os.environ['OMP_NUM_THREADS'] != '1')"
    assert side_by_side([sys.executable, "-c", code], 2) == 0
    assert side_by_side([sys.executable, "-c", "import sys; sys.exit(3)"], 2) == 2


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_processes_end_with_the_one_that_began_them(tmp_path, how):
    child = f"""
        import os, pathlib, time
        pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()
        time.sleep(120)
        """
    parent = f"""
        import signal, sys
        from coursekit.batch.processes import side_by_side
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has its children ignore
        side_by_side([sys.executable, "-c", {textwrap.dedent(child)!r}], 2)
        """
    started = subprocess.Popen([sys.executable, "-c", textwrap.dedent(parent)])
    deadline = time.monotonic() + 120
    while len(list(tmp_path.iterdir())) < 2:
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    started.send_signal(how)
    started.wait()
    children = [int(path.name) for path in tmp_path.iterdir()]
    for pid in children:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(10)
    assert not any(psutil.pid_exists(pid) for pid in children), os.getpid()

r"""Batches: what counts as ok, what is run again, what is refused, and what is left behind."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from coursekit.batch import inputs, runner
from coursekit.batch.folder import Folder
from coursekit.batch.processes import watch
from coursekit.batch.report import Result, read_summary, summary_files
from coursekit.batch.runner import run_notebooks
from coursekit.errors import CourseError
from coursekit.notebook.parameters import check, defaults, fits, parse, read_profile


def notebook(path: Path, *sources: str, parameters: str = "") -> Path:
    r"""A notebook with a cell tagged `parameters` and one cell for each source."""
    cells = []
    if parameters:
        cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    metadata = {"kernelspec": {"name": "some-env", "display_name": "Elsewhere", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def summary(out: Path) -> dict:
    found = json.loads((out / "summary.json").read_text())
    return {entry["notebook"]: entry for entry in found["notebooks"]}


@pytest.fixture
def no_kernel(monkeypatch):
    monkeypatch.setattr(runner, "watch", lambda *a, **k: pytest.fail("a kernel was started"))


@pytest.mark.slow
def test_one_bad_notebook_stops_no_other(tmp_path):
    bad = notebook(tmp_path / "a_bad.ipynb", "x = 1", "raise ValueError('no & <b>')", "y = 2")
    quits = notebook(tmp_path / "b_quits.ipynb", "import sys; sys.exit(0)", "print('never')")
    dies = notebook(tmp_path / "c_dies.ipynb", "import os; os._exit(3)")
    (tmp_path / "d_invalid.ipynb").write_text("{")
    good = notebook(
        tmp_path / "e {good}.ipynb", "import math, pathlib", "print('sum', math.prod([6, 7]))", ""
    )
    out = tmp_path / "runs"
    results = run_notebooks([bad, quits, dies, tmp_path / "d_invalid.ipynb", good], out)
    assert [r.status for r in results] == ["failed", "incomplete", "failed", "invalid", "ok"]
    assert results[0].message == "code cell 2: ValueError: no & <b>" and results[0].cells_run == 2
    assert results[2].message == "the kernel died"
    assert results[4].peak_memory > 30e6 and results[4].minutes > 0 and results[4].cells == 2
    assert "42" in str(nbformat.read(out / results[4].executed, 4).cells[1].outputs)
    assert "sum 42" in (out / results[4].page).read_text()
    assert not json.loads((out / "summary.json").read_text())["ok"]
    index = (out / "index.html").read_text()
    assert "no &amp; &lt;b&gt;" in index and "e%20%7Bgood%7D.html" in index and "1 of 5" in index


@pytest.mark.slow
def test_finished_notebooks_are_run_again_only_when_their_inputs_change(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "fingerprint_of_the_world", lambda: "someone may be editing the package now")
    counter = tmp_path / "counter"
    count = f"with open({str(counter)!r}, 'a') as file: file.write(str(steps) + '\\n')"
    path = notebook(tmp_path / "a.ipynb", count, parameters="steps = 60")
    flaky = notebook(tmp_path / "b.ipynb", count, "assert steps > 100", parameters="steps = 60")
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "smoke.yaml").write_text("steps: 2\nunknown_here: 3\n")
    out = tmp_path / "runs"

    def run(**settings):
        counter.write_text("")
        return [r.status for r in run_notebooks([path, flaky], out, **settings)], counter.read_text().split()

    assert run() == (["ok", "failed"], ["60", "60"])
    assert run() == (["ok", "failed"], ["60"]), "only the failed one"
    assert run(profile="smoke") == (["ok", "failed"], ["2", "2"])
    assert run(profile="smoke", parameters={"steps": 200}) == (["ok", "ok"], ["200", "200"])
    assert run(profile="smoke", parameters={"steps": 200}) == (["ok", "ok"], [])
    assert run(profile="smoke", parameters={"steps": 200}, force=True) == (["ok", "ok"], ["200", "200"])
    again = {"profile": "smoke", "parameters": {"steps": 200}}
    executed = nbformat.read(path, 4)
    executed.cells[1].outputs = [nbformat.v4.new_output("stream", text="an output is no input")]
    nbformat.write(executed, path)
    assert run(**again)[1] == []
    monkeypatch.setattr(inputs, "fingerprint_of_the_world", lambda: "the package has changed")
    assert run(**again)[1] == ["200", "200"]
    (out / "a.ipynb").unlink()
    assert run(**again)[1] == ["200"], "its result is gone"


def test_the_fingerprint_sees_source_data_and_device(tmp_path, monkeypatch):
    package = tmp_path / "coursekit"
    (tmp_path / "data").mkdir()
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "data" / "x.csv").write_text("1")
    monkeypatch.setattr(inputs.coursekit, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(inputs, "DATA", tmp_path / "data")
    seen = {inputs.fingerprint_of_the_world()}
    assert inputs.fingerprint_of_the_world() in seen
    (package / "new.py").write_text("")
    seen.add(inputs.fingerprint_of_the_world())
    (tmp_path / "data" / "x.csv").write_text("2")
    seen.add(inputs.fingerprint_of_the_world())
    monkeypatch.setenv("DEVICE", "some")
    seen.add(inputs.fingerprint_of_the_world())
    assert len(seen) == 4


@pytest.mark.parametrize(
    "given, says",
    [
        ({"steps": "many"}, "'steps' expects int, got 'many' (str)"),
        ({"steps": 2.5}, "'steps' expects int, got 2.5 (float)"),
        ({"steps": True}, "'steps' expects int, got True (bool)"),
        ({"lr": "1e-3"}, "write 1.0e-03"),
        ({"names": "abc"}, "'names' expects list"),
        ({"quick": 1}, "'quick' expects bool"),
        ({"stepps": 3}, "unknown parameter 'stepps'; did you mean 'steps'?"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused_before_a_kernel(tmp_path, no_kernel, given, says):
    cell = "steps = 60  # of training\nlr = 1e-3\nnames = ['a',\n         'b']\nquick = False\nseed = None"
    path = notebook(tmp_path / "n.ipynb", "1", parameters=cell)
    with pytest.raises(CourseError) as caught:
        run_notebooks([path], tmp_path / "runs", parameters=given)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()
    check(defaults(path), {"steps": 1, "lr": 1, "names": ("c",), "quick": True, "seed": "any"}, "")


def test_a_profile_that_does_not_fit_is_refused_before_a_kernel(tmp_path, no_kernel):
    path = notebook(tmp_path / "n.ipynb", "1", parameters="steps = 60")
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "smoke.yaml").write_text("steps: lots\n")
    (folder / "list.yaml").write_text("- steps\n")
    (folder / "broken.yaml").write_text("steps: [1\n")
    for profile, says in [
        ("smoke", r"'steps' expects int, got 'lots' \(str\) \(smoke.yaml for n.ipynb\)"),
        ("smok", "unknown profile 'smok'; did you mean 'smoke'"),
        ("list", "name: value"),
        ("broken", "not valid YAML"),
        (folder / "none.yaml", "cannot read the profile"),
    ]:
        with pytest.raises(CourseError, match=says) as caught:
            run_notebooks([path], tmp_path / "runs", profile=profile)
        assert "\n" not in str(caught.value)


def test_missing_and_colliding_notebooks(tmp_path, no_kernel):
    (tmp_path / "b").mkdir()
    first, second = notebook(tmp_path / "n.ipynb", "1"), notebook(tmp_path / "b" / "n.ipynb", "1")
    for paths, says in [([], "no notebooks"), ([tmp_path / "x.ipynb"], "no notebook .*x.ipynb")]:
        with pytest.raises(CourseError, match=says):
            run_notebooks(paths, tmp_path / "runs")
    with pytest.raises(CourseError, match="would both become n.ipynb"):
        run_notebooks([first, second], tmp_path / "runs")


def test_a_parameter_goes_to_the_notebooks_that_know_it(tmp_path):
    one = notebook(tmp_path / "one.ipynb", "1", parameters="steps = 60")
    two = notebook(tmp_path / "two.ipynb", "1", parameters="rank = 8")
    jobs = inputs.plan([one, two], None, {"steps": 3, "rank": 4})
    assert [job.given for job in jobs] == [{"steps": 3}, {"rank": 4}]


@pytest.mark.parametrize(
    "text, value",
    [("3", 3), ("3.5", 3.5), ("1e-3", 1e-3), ("true", True), ("False", False), ("None", None)]
    + [("[1, 'a']", [1, "a"]), ("film", "film"), ("a=b", "a=b"), ("", "")],
)
def test_values_of_the_command_line(text, value):
    name, parsed = parse(f"x={text}")
    assert name == "x" and parsed == value and type(parsed) is type(value)


def test_what_is_no_assignment_is_refused():
    for text in ("steps", "=3", "a b=3"):
        with pytest.raises(CourseError, match="write name=value"):
            parse(text)


def test_what_fits():
    assert fits(1, float) and fits(1.0, float) and fits(1, int) and fits("a", str) and fits((1,), list)
    assert not fits(1.0, int) and not fits(True, int) and not fits(True, float) and not fits(0, bool)
    assert fits(True, bool) and not fits("1", int) and not fits(None, int)


def test_no_profile_is_no_parameters(tmp_path):
    assert read_profile(None, tmp_path) == (None, {})
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "empty.yaml").write_text("# nothing yet\n")
    assert read_profile("empty", tmp_path)[1] == {}


def test_memory_is_that_of_the_whole_tree_at_its_peak():
    child = "x = bytearray(200 << 20); import time; time.sleep(1)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    watched = watch([sys.executable, "-c", parent])
    assert watched.returncode == 0 and not watched.timed_out
    assert 200 << 20 < watched.peak_bytes < 300 << 20


def test_nothing_of_the_tree_outlives_its_time(tmp_path):
    r"""A child that detaches and ignores SIGTERM is ended all the same."""
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\ntime.sleep(600)"
    )
    watched = watch([sys.executable, "-c", parent], timeout=1.5)
    assert watched.timed_out and watched.seconds < 30
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.slow
def test_a_notebook_that_hangs_meets_its_timeout(tmp_path):
    path = notebook(tmp_path / "n.ipynb", "print(1)", "import time; time.sleep(600)")
    (result,) = run_notebooks([path], tmp_path / "runs", timeout=0.15)
    assert result.status == "timeout" and "code cell" in result.message


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_the_next_run_goes_on(tmp_path):
    counter = tmp_path / "counter"
    count = f"with open({str(counter)!r}, 'a') as file: file.write('x')"
    quick = notebook(tmp_path / "a.ipynb", count)
    pid = tmp_path / "pid"
    wait = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    slow = notebook(tmp_path / "b.ipynb", wait)
    out = tmp_path / "runs"
    command = [sys.executable, "-m", "coursekit.cli", "run", str(quick), str(slow), "--out", str(out)]
    # Started in the background by a shell, this process ignores SIGINT and would pass that on.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 120
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said and "run the same command again" in said
    assert not psutil.pid_exists(int(pid.read_text())), "the kernel is gone"
    assert list(summary(out)) == ["a.ipynb"]
    notebook(slow, "1")
    assert subprocess.run(command, stderr=subprocess.PIPE).returncode == 0
    assert counter.read_text() == "x" and summary(out)["b.ipynb"]["status"] == "ok"


def test_two_batches_cannot_write_to_one_folder(tmp_path, no_kernel):
    path = notebook(tmp_path / "n.ipynb", "1")
    with Folder(tmp_path / "runs").opened(), pytest.raises(CourseError, match="another run"):
        run_notebooks([path], tmp_path / "runs")
    with Folder(tmp_path / "runs").opened():
        pass


def test_a_summary_comes_back_as_it_was_and_a_broken_one_is_forgotten(tmp_path):
    results = [Result("b.ipynb", "ok", minutes=1.5, key="k"), Result("a.ipynb", "failed", "why")]
    for name, text in summary_files(results, "smoke").items():
        (tmp_path / name).write_text(text)
    assert read_summary(tmp_path) == {r.notebook: r for r in results}
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["index.html", "summary.json"]
    for text in ("", "{", "[]", '{"notebooks": [3]}'):
        (tmp_path / "summary.json").write_text(text)
        assert read_summary(tmp_path) == {}


def test_the_index_has_both_themes():
    from coursekit.batch.report import _index

    page = _index([Result("a.ipynb", "ok")], None)
    assert "color-scheme: light dark" in page and "default profile" in page and os.sep not in "a.ipynb"

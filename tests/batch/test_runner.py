r"""Batches: what counts as ok, what is run again, what is refused, and what is left behind."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill_here
import psutil
import pytest
import torch
import yaml
from papermill.iorw import NoDatesSafeLoader

from coursekit import files
from coursekit.batch import inputs, runner, share
from coursekit.batch.processes import Stopped, Watched, watch
from coursekit.batch.report import Result, read_summary, summary_files
from coursekit.batch.runner import run_notebooks
from coursekit.errors import CourseError
from coursekit.files import Folder
from coursekit.notebook.parameters import as_yaml, check, defaults, parse, read_profile


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
def test_one_bad_notebook_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = notebook(tmp_path / "a_bad.ipynb", "x = 1", "raise ValueError('no & <b>')", "y = 2")
    quits = notebook(tmp_path / "b_quits.ipynb", "import sys; sys.exit(0)", "print('never')")
    dies = notebook(tmp_path / "c_dies.ipynb", "import os; os._exit(3)")
    (tmp_path / "d_invalid.ipynb").write_text("{")
    good = notebook(
        Path("-e {good}.ipynb"), "import math", "print('sum', math.prod([6, 7]), lr)", "", parameters="lr = 1.0"
    )
    out = tmp_path / "runs"
    results = run_notebooks(
        [bad, quits, dies, tmp_path / "d_invalid.ipynb", good], out, parameters={"lr": 5e-5}, jobs=2
    )
    assert [r.status for r in results] == ["failed", "incomplete", "failed", "invalid", "ok"]
    assert results[0].message == "code cell 2: ValueError: no & <b>" and results[0].cells_run == 2
    assert results[2].message == "the kernel died"
    assert results[4].peak_memory > 30e6 and results[4].minutes > 0 and results[4].cells == 4
    assert "sum 42 5e-05" in (out / results[4].page).read_text()
    assert not json.loads((out / "summary.json").read_text())["ok"]
    index = (out / "index.html").read_text()
    assert "no &amp; &lt;b&gt;" in index and "e%20%7Bgood%7D.html" in index and "1 of 5" in index


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(runner, "watch", papermill_here.watch)
    monkeypatch.setattr(inputs, "fingerprint_of_the_world", lambda: "someone may be editing the package now")


def test_finished_notebooks_are_run_again_only_when_their_inputs_change(tmp_path, quick, monkeypatch):
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
    page = (out / "a.html").read_text()
    (out / "a.html").unlink()
    assert run(**again)[1] == [] and (out / "a.html").read_text() == page, "a page is made from its notebook"
    emptied = nbformat.read(out / "a.ipynb", 4)
    emptied.cells[0].outputs, emptied.cells[0].execution_count = [], None
    nbformat.write(emptied, out / "a.ipynb")
    assert run(**again)[1] == ["200"], "its result was emptied"
    tagged = nbformat.read(path, 4)
    tagged.cells[1].metadata["tags"] = ["remove-input"]
    nbformat.write(tagged, path)
    assert run(**again)[1] == ["200"], "a tag may change what a cell does"


def test_a_notebook_is_run_again_when_a_file_beside_it_changes(tmp_path, quick):
    counter = tmp_path / "counter"
    wrote = tmp_path / "work" / "wrote.txt"  # as a notebook writes it, whose working folder is its own
    source = f"open({str(counter)!r}, 'a').write('x'); open({str(wrote)!r}, 'w').write('same')"
    (tmp_path / "work" / "parts").mkdir(parents=True)
    (tmp_path / "work" / "words.txt").write_text("old")
    path = notebook(tmp_path / "work" / "a.ipynb", source)
    notebook(tmp_path / "work" / "other.ipynb", "1")

    def runs() -> int:
        counter.write_text("")
        run_notebooks([path], tmp_path / "out")
        return len(counter.read_text())

    assert runs() == 1 and runs() == 0, "what it wrote itself is no input"
    for name, text in [("words.txt", "new"), ("help.py", "x = 1"), ("help.py", "x = 2"), ("parts/a.py", "y = 1")]:
        (tmp_path / "work" / name).write_text(text)
        assert runs() == 1, f"{name} may be read by it"
        assert runs() == 0
    (tmp_path / "work" / "help.py").unlink()
    assert runs() == 1
    notebook(tmp_path / "work" / "other.ipynb", "2")
    assert runs() == 0


def test_a_failure_before_the_kernel_keeps_the_last_good_result(tmp_path, quick, monkeypatch):
    path, out = notebook(tmp_path / "a.ipynb", "print(6 * 7)", parameters="x = None"), tmp_path / "out"
    run_notebooks([path], out)
    before = (out / "a.ipynb").read_bytes()
    with pytest.raises(CourseError, match="parameter 'x' cannot be of type set"):
        run_notebooks([path], out, parameters={"x": {1, 2}})
    monkeypatch.setattr(runner, "watch", lambda *a, **k: Watched(1, 0.1, 100, False))
    (result,) = run_notebooks([path], out, force=True)
    assert result.status == "failed" and result.executed == "" and (out / "a.ipynb").read_bytes() == before


def test_so_many_notebooks_at_a_time(tmp_path, quick, monkeypatch, capsys):
    paths = [notebook(tmp_path / f"{name}.ipynb", "1") for name in "abcd"]
    both, most, now = threading.Barrier(2, timeout=20), [], []

    def together(command, **options):
        now.append(command)
        most.append(len(now))
        both.wait()  # nobody goes on before two are here
        time.sleep(0.01)
        now.remove(command)
        return papermill_here.watch(command, **options)

    monkeypatch.setattr(runner, "watch", together)
    assert [r.notebook for r in run_notebooks(paths, tmp_path / "out", jobs=2)] == [p.name for p in paths]
    assert max(most) == 2 and all(entry["status"] == "ok" for entry in summary(tmp_path / "out").values())
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.endswith(" ...")] == [f"[{i}/4] {p.name} ..." for i, p in enumerate(paths, 1)]
    assert len([line for line in said if ": ok in 0.0 min" in line]) == 4
    for jobs in (0, 1.5, True):
        with pytest.raises(CourseError, match="jobs must be a positive integer, such as 2; got"):
            run_notebooks(paths, tmp_path / "out", jobs=jobs)


def test_ctrl_c_ends_all_that_run_at_a_time(tmp_path, quick, monkeypatch):
    paths = [notebook(tmp_path / f"{name}.ipynb", "1") for name in "abcd"]
    ended = []

    def asleep(command, *, stop, **options):
        if "a.ipynb" in command[3]:
            return papermill_here.watch(command)
        assert stop.wait(20)
        ended.append(Path(command[3]).name)
        raise Stopped

    def interrupted(running, **options):
        found = wait(running, **options)
        if "a.ipynb" in summary(tmp_path / "out"):  # "b" and "c" are running
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(runner, "watch", asleep)
    wait = runner.wait
    # Called once with "a" and "b" running, then with "b" and "c".
    monkeypatch.setattr(runner, "wait", lambda running, **o: interrupted(running, timeout=0.5, **o))
    with pytest.raises(KeyboardInterrupt):
        run_notebooks(paths, tmp_path / "out", jobs=2)
    assert sorted(ended) == ["b.ipynb", "c.ipynb"] and list(summary(tmp_path / "out")) == ["a.ipynb"]


def test_the_fingerprint_sees_source_data_device_and_libraries(tmp_path, monkeypatch):
    package = tmp_path / "coursekit"
    (tmp_path / "data").mkdir()
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "data" / "x.csv").write_text("1")
    (tmp_path / "data" / "papers").mkdir()
    (package / "methods").mkdir()
    monkeypatch.setattr(inputs.coursekit, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(inputs, "DATA", tmp_path / "data")
    version = inputs.metadata.version
    seen = {inputs.fingerprint_of_the_world()}
    assert inputs.fingerprint_of_the_world() in seen
    for change in (
        (package / "new.py").touch,
        lambda: (tmp_path / "data" / "x.csv").write_text("2"),
        (tmp_path / "data" / "papers" / "glue.csv").touch,
        (package / "methods" / "lora.py").touch,
        lambda: monkeypatch.setenv("DEVICE", "some"),
        lambda: monkeypatch.setattr(inputs.metadata, "version", lambda p: "9" if p == "transformers" else version(p)),
    ):
        change()
        now = inputs.fingerprint_of_the_world()
        assert now not in seen
        seen.add(now)


ITSELF: list = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"steps": "many"}, "'steps' expects int, got 'many' (str)"),
        ({"steps": 2.5}, "'steps' expects int, got 2.5 (float)"),
        ({"steps": True}, "'steps' expects int, got True (bool)"),
        ({"steps": None}, "'steps' expects int, got None (NoneType)"),
        ({"lr": "1e-3"}, "write 1.0e-03"),
        ({"lr": True}, "'lr' expects float, got True (bool)"),
        ({"names": "abc"}, "'names' expects list"),
        ({"quick": 1}, "'quick' expects bool"),
        ({"seed": {1, 2}}, "parameter 'seed' cannot be of type set"),
        ({"seed": b"x"}, "parameter 'seed' cannot be of type bytes"),
        ({"seed": 1j}, "parameter 'seed' cannot be of type complex"),
        ({"names": ["a", {"b": {1}}]}, "parameter 'names' cannot be of type set"),
        ({"names": ITSELF}, "parameter 'names' cannot be nested so deeply"),
        ({"seed": "\udc80"}, "parameter 'seed' cannot be text that is not UTF-8"),
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
    path = notebook(tmp_path / "n.ipynb", "1", parameters="steps = 60\nday = None\nnames = []")
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "smoke.yaml").write_text("steps: lots\n")
    (folder / "list.yaml").write_text("- steps\n")
    (folder / "broken.yaml").write_text("steps: [1\n")
    (folder / "date.yaml").write_text("day: 2024-05-06\n")
    (folder / "nodate.yaml").write_text("day: 2024-99-99\n")
    (folder / "set.yaml").write_text("names: !!set {a, b}\n")
    (folder / "bytes.yaml").write_text("day: !!binary aGk=\n")
    (folder / "itself.yaml").write_text("names: &n [*n]\n")
    bomb = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12))
    (folder / "bomb.yaml").write_text("x0: &x0 [1]\n" + bomb)
    (folder / "deep.yaml").write_text("names: " + "[" * 2000 + "]" * 2000)
    (folder / "numbers.yaml").write_text("1: 2\n")
    (folder / "latin.yaml").write_bytes(b"names: [\xe9]")
    for profile, says in [
        ("smoke", r"'steps' expects int, got 'lots' \(str\) \(smoke.yaml for n.ipynb\)"),
        ("smok", "unknown profile 'smok'; did you mean 'smoke'"),
        ("list", "name: value"),
        ("broken", "not valid YAML"),
        ("date", r"parameter 'day' cannot be of type date \(date.yaml for n.ipynb\)"),
        ("nodate", "not valid YAML"),
        ("set", "'names' expects list"),
        ("bytes", "parameter 'day' cannot be of type bytes"),
        ("itself", "has an alias such as"),
        ("bomb", "has an alias such as"),
        ("deep", "not valid YAML"),
        ("numbers", "name: value"),
        ("latin", "is not UTF-8 text"),
        (folder / "none.yaml", "cannot read the profile"),
    ]:
        with pytest.raises(CourseError, match=says) as caught:
            run_notebooks([path], tmp_path / "runs", profile=profile)
        assert "\n" not in str(caught.value)


def test_missing_and_colliding_notebooks(tmp_path, no_kernel):
    (tmp_path / "b").mkdir()
    first, second = notebook(tmp_path / "n.ipynb", "1"), notebook(tmp_path / "b" / "n.ipynb", "1")
    (tmp_path / "a.py").write_text(first.read_text())
    for paths, says in [
        ([], "no notebooks"),
        ([tmp_path / "x.ipynb"], "no notebook .*x.ipynb"),
        ([tmp_path / "a.py"], "a.py is no notebook: its name must end in .ipynb"),
    ]:
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
    + [("5e-5", 5e-5), ("1e999", float("inf")), ("{[]: 1}", "{[]: 1}"), ("[" * 999, "[" * 999)]
    + [("[1, 'a']", [1, "a"]), ("film", "film"), ("a=b", "a=b"), ("", "")],
)
def test_values_of_the_command_line(text, value):
    name, parsed = parse(f"x={text}")
    assert name == "x" and parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    "value",
    [5e-5, 3e-05, 1e22, float("inf"), [5e-5, -0.0, 1], 10**30, "5e-5", "true", "é\n'\"", None, False]
    + [{"lr": 5e-5}, ["a", ["b"]]],
)
def test_papermill_reads_the_parameter_that_was_given(value):
    read = yaml.load(as_yaml({"x": value}), Loader=NoDatesSafeLoader)["x"]
    assert read == value and type(read) is type(value)
    assert repr(read) == repr(value)


@pytest.mark.parametrize("timeout", [float("nan"), 0, -1, float("inf"), "1"])
def test_a_time_limit_is_a_number_of_minutes(tmp_path, no_kernel, timeout):
    path = notebook(tmp_path / "n.ipynb", "1")
    with pytest.raises(CourseError, match="timeout must be a number above 0, such as 10; got"):
        run_notebooks([path], tmp_path / "runs", timeout=timeout)


def test_what_is_no_assignment_is_refused():
    for text in ("steps", "=3", "a b=3"):
        with pytest.raises(CourseError, match="write name=value"):
            parse(text)


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


def test_cpu_time_is_that_of_the_tree_and_not_of_the_clock():
    work = "import time; end = time.process_time() + 1\nwhile time.process_time() < end: pass"
    parent = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {work!r}]); time.sleep(1)"
    watched = watch([sys.executable, "-c", parent])
    assert 0.7 < watched.cpu_seconds < watched.seconds - 0.5


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
    (result,) = run_notebooks([path], tmp_path / "runs", timeout=0.3)
    assert result.status == "timeout" and "code cell" in result.message


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_the_next_run_goes_on(tmp_path, monkeypatch):
    counter = tmp_path / "counter"
    count = f"with open({str(counter)!r}, 'a') as file: file.write('x')"
    quick = notebook(tmp_path / "a.ipynb", count)
    pid = tmp_path / "pid"
    wait = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    slow = notebook(tmp_path / "b.ipynb", wait)
    out = tmp_path / "runs"
    command = [sys.executable, "-m", "coursekit.cli", "run", str(quick), str(slow), "--out", str(out), "--jobs", "1"]
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
    monkeypatch.setattr(runner, "watch", papermill_here.watch)
    assert [result.ok for result in run_notebooks([quick, slow], out)] == [True, True]
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
    r"""Every colour that the page names has a light and a dark form, and text can be read on either ground."""
    page = summary_files([Result("a.ipynb", "ok"), Result("b.ipynb", "failed")], None)["index.html"]
    assert "color-scheme: light dark" in page and "default profile" in page
    defined = dict(re.findall(r"(--[a-z]+): light-dark\((#[0-9a-f]{6}, #[0-9a-f]{6})\)", page))
    assert {*re.findall(r"var\((--[a-z]+)\)", page)} == {*defined} >= {"--good", "--bad"}
    assert not re.findall(r"(?<!--)(?:color|background): *#", page), "a colour for one theme only"
    for name in ("--good", "--bad"):
        light, dark = defined[name].split(", ")
        assert contrast(light, "#ffffff") >= 4.5 and contrast(dark, "#121212") >= 4.5


def contrast(one: str, other: str) -> float:
    r"""Of two colours by WCAG 2.2, from 1 to 21; text wants 4.5."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("jobs, busy, own, threads", [
    (1, 0, None, "8"), (2, 0, None, "4"), (16, 0, None, "1"), (2, 50, None, "2"), (1, 100, None, "1"), (2, 0, "3", "3"),
])  # fmt: skip
def test_kernels_share_the_cores_that_nobody_else_uses(monkeypatch, jobs, busy, own, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    monkeypatch.setattr(share, "cores", lambda: 8)
    monkeypatch.setattr(share.psutil, "cpu_percent", lambda _: busy)
    assert share.threads(jobs) == threads


@pytest.mark.parametrize(
    ("notebooks", "free", "kind", "jobs"),
    [(11, 64, "cpu", 8), (3, 64, "cpu", 3), (11, 10, "cpu", 2), (11, 2, "cpu", 1), (11, 64, "cuda", 1)],
)
def test_as_many_notebooks_at_a_time_as_fit(monkeypatch, notebooks, free, kind, jobs):
    monkeypatch.setattr(share, "cores", lambda: 8)
    monkeypatch.setattr("coursekit.device.pick_device", lambda: torch.device(kind))
    monkeypatch.setattr(share.psutil, "virtual_memory", lambda: SimpleNamespace(available=free * 10**9))
    assert share.jobs_that_fit(notebooks) == jobs


def test_make_lab_gives_its_kernels_threads(tmp_path):
    (tmp_path / "ready").touch()
    stubs = {"python": f'exec {sys.executable} "$@"', "coursekit": "", "jupyter": 'echo "$OMP_NUM_THREADS $@"'}
    for name, line in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = ["make", "-s", "lab", f"BIN={tmp_path}", f"READY={tmp_path / 'ready'}"]
    said = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert re.fullmatch(r"[1-9]\d* lab notebooks/\n", said.stdout), said


def test_a_kernel_gets_its_threads(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(share, "cores", lambda: 6)
    monkeypatch.setattr(share.psutil, "cpu_percent", lambda _: 0)
    seen = []

    def watch(command, env, **options):
        seen.append(env["OMP_NUM_THREADS"])
        return papermill_here.watch(command, env=env, **options)

    monkeypatch.setattr(runner, "watch", watch)
    assert run_notebooks([notebook(tmp_path / "a.ipynb", "1")], tmp_path / "out", jobs=2)[0].ok
    assert seen == ["3"]


@pytest.mark.parametrize("name", ["data/d.csv", "pkg/deep/m.py", "../up.txt"])
def test_a_file_that_a_notebook_reads_counts_wherever_it_lies(tmp_path, quick, name):
    source = "import pkg.deep.m" if name.endswith(".py") else f"open({name!r})"
    (tmp_path / "work").mkdir()
    path = notebook(tmp_path / "work" / "a.ipynb", source)
    file = path.parent / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("1")
    (job,) = inputs.plan([path], None, {})
    (path.parent / "mine.txt").write_text("an output")
    assert inputs.same_beside(job.beside, inputs.plan([path], None, {})[0])
    file.write_text("2")
    assert not inputs.same_beside(job.beside, inputs.plan([path], None, {})[0])


def test_a_batch_that_was_stopped_in_its_first_notebook_is_not_ok(tmp_path, monkeypatch):
    paths = [notebook(tmp_path / f"{name}.ipynb", "1") for name in "ab"]

    def stopped(command, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "watch", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_notebooks(paths, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["ok"] is False


def test_names_that_no_report_can_hold_are_refused_before_a_kernel_starts(tmp_path, quick):
    for name, says in (("index", "the batch's own: rename it"), ("caf\udce9", "no name that a report can hold")):
        path = notebook(tmp_path / "plain.ipynb", "1").rename(tmp_path / f"{name}.ipynb")
        with pytest.raises(CourseError, match=says):
            run_notebooks([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_hundred_thousand_brackets_are_one_invalid_notebook(tmp_path, quick):
    bad, good = tmp_path / "bad.ipynb", notebook(tmp_path / "good.ipynb", "1")
    bad.write_text("[" * 100_000)
    assert [r.status for r in run_notebooks([bad, good], tmp_path / "out")] == ["invalid", "ok"]


def test_a_full_disk_leaves_no_half_of_a_page_behind(tmp_path, quick, monkeypatch):
    paths = [notebook(tmp_path / f"{name}.ipynb", "1") for name in "ab"]
    fsync, full = files.os.fsync, []

    def once(descriptor):
        if "html" in os.readlink(f"/proc/self/fd/{descriptor}") and not full:
            full.append(True)
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", once)
    assert [r.ok for r in run_notebooks(paths, tmp_path / "out")] == [True, True]
    assert full and not list((tmp_path / "out").glob(".*part*"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere orphans are init's")
def test_what_forks_twice_does_not_outlive_its_command(tmp_path):
    code = "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        "
    code += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n        time.sleep(60)\n    os._exit(0)\n"
    code += f"while not os.path.exists({str(tmp_path / 'pid')!r}): time.sleep(0.01)\ntime.sleep(0.05)"
    assert watch([sys.executable, "-c", code]).returncode == 0
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))

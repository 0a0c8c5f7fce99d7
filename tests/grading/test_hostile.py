r"""One real batch of every kind of hostile submission, in real boxes, and what must be true afterwards."""

import copy
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import NOTEBOOK
from hostile import files

HERE = Path(__file__).parent
ANSWERS = sorted((HERE / "hostile" / "answers").iterdir())
HONEST = ("00_honest", "99_honest")


def write_all(folder: Path, solved: dict, blank: dict) -> dict[str, tuple[str, str]]:
    r"""All submissions; what is expected of each."""
    expected: dict[str, tuple[str, str]] = {}
    for path in ANSWERS:
        status, mark = re.search(r"^# expect: (\w+) (\w+)$", path.read_text(), re.MULTILINE).groups()
        notebook = copy.deepcopy(solved)
        files.cell_of(notebook, "lora_truncate")["source"] = path.read_text()
        files.save(folder, f"{path.stem}.ipynb", notebook)
        expected[path.stem] = (status, mark)
    for make in files.ALL:
        expected |= make(folder, solved, blank)
    for name in HONEST:
        files.save(folder, f"{name}.ipynb", solved)
        expected[name] = ("ok", files.FULL)
    examples = HERE.parents[1] / "examples" / "submissions"
    for path in examples.glob("*.ipynb"):
        shutil.copy(path, folder / f"60_{path.name}")
    expected |= {
        "60_ada": ("ok", files.FULL), "60_bob": ("wrong", files.SOME), "60_cem": ("not_attempted", files.NONE),
        "60_dana": ("missing_name", files.SOME), "60_eve": ("kernel_died", files.SOME),
    }  # fmt: skip
    files.save(folder, "50_blank.ipynb", blank)
    expected["50_blank"] = ("not_attempted", files.NONE)
    return expected


class Batch:
    r"""The batch, graded once for all tests here."""

    def __init__(self, place: Path, solved: dict, blank: dict) -> None:
        self.folder, self.out = place / "submissions", place / "marks"
        self.folder.mkdir()
        self.expected = write_all(self.folder, solved, blank)
        self.before = snapshot(place)
        command = [sys.executable, "-m", "coursekit.cli", "grade", str(self.folder), "--out", str(self.out)]
        command += ["--jobs", "2", "--exercise-seconds", "10", "--seconds", "20", "--memory", "0.5"]
        command += ["--box", "bwrap", "--notebook", str(NOTEBOOK)]
        self.memory: list[int] = []
        begun = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            watcher = threading.Thread(target=self.watch, args=(psutil.Process(process.pid),))
            watcher.start()
            self.said, _ = process.communicate()
            watcher.join()
        self.code, self.seconds = process.returncode, time.monotonic() - begun
        self.after = snapshot(place)
        lines = [json.loads(line) for line in (self.out / "manifest.jsonl").read_text().splitlines()]
        self.results = {
            line["submission"]: json.loads((self.out / "results" / f"{line['key']}.json").read_text()) for line in lines
        }

    def watch(self, process: psutil.Process) -> None:
        while True:
            try:
                self.memory.append(process.memory_info().rss)
            except psutil.Error:
                return
            time.sleep(0.2)


def snapshot(place: Path) -> dict[str, tuple[float, int]]:
    r"""Time and size of what lies beside the marks, and of the folders that a submission would like to write."""
    found = {}
    for folder in (place / "submissions", Path("/tmp"), Path("/dev/shm"), Path.home(), HERE):
        for path in folder.iterdir() if folder != place / "submissions" else folder.rglob("*"):
            if not path.name.startswith(("pytest-", ".pytest", "__pycache__", "torch_", "tmp")):
                kind = path.lstat()
                found[str(path)] = (0.0 if path.is_dir() else kind.st_mtime, 0 if path.is_dir() else kind.st_size)
    return found


@pytest.fixture(scope="module")
def batch(box: str, tmp_path_factory: pytest.TempPathFactory, solved: dict, blank: dict) -> Batch:
    place = tmp_path_factory.mktemp("hostile")
    return Batch(place, solved, blank)


def test_all_kinds_are_there():
    kinds = {int(p.name[:2]) for p in ANSWERS}
    text = " ".join(make.__doc__ for make in files.ALL)
    kinds |= {int(n) for n in re.findall(r"\b(\d\d):", text)}
    assert kinds >= set(range(1, 39))


def test_every_submission_gets_its_status_and_mark(batch: Batch):
    assert batch.code == 0, batch.said
    wrong = {}
    of = {e["id"]: e["of"] for e in batch.results[HONEST[0]]["exercises"]}
    full = sum(of.values())
    marks = {files.FULL: full, files.REST: full - of["lora-truncate"], files.NONE: 0}
    for name, (status, mark) in batch.expected.items():
        known = [n for n in batch.results if n == name or (name.endswith("-") and n.startswith(name))]
        assert len(known) == 1, name
        result = batch.results[known[0]]
        found = (result["status"], sum(e["points"] for e in result["exercises"]))
        right = 0 < found[1] < full if mark == files.SOME else found[1] == marks[mark]
        if found[0] != status or not right:
            wrong[name] = (found, status, mark, result["message"])
    assert not wrong
    assert len(batch.results) == len(batch.expected)


def test_messages_are_one_line_that_names_the_place(batch: Batch):
    for name, result in batch.results.items():
        for text in (result["message"], *(e["message"] for e in result["exercises"])):
            assert text and text.isprintable() and len(text) < 400, name
        if result["status"] not in ("ok", "invalid_notebook"):
            assert result["where"], name
    assert "lora_truncated" in batch.results["14_renamed"]["message"]
    (copied,) = [e for e in batch.results["40b_copied"]["exercises"] if e["id"] == "lora-truncate"]
    assert copied["copies"] == 2


def test_nobody_elses_mark_changes(batch: Batch):
    first, last = (batch.results[name] for name in HONEST)
    assert first["exercises"] == last["exercises"] and first["status"] == last["status"] == "ok"


def test_no_process_is_left(batch: Batch):
    for process in psutil.process_iter(["cmdline", "environ", "cwd"]):  # their PYTHONPATH lies beside the marks
        assert str(batch.out) not in str(process.info)


def test_no_file_outside_the_marks_changes(batch: Batch):
    changed = {p for p in batch.before.keys() | batch.after.keys() if batch.before.get(p) != batch.after.get(p)}
    assert not {p for p in changed if "coursekit" in p or p.startswith(str(batch.folder)) or "pwned" in p}
    assert not Path("/tmp/coursekit-was-here").exists() and not (batch.out / ".work").exists()
    assert {p.name for p in batch.out.iterdir()} >= {"secret", "manifest.jsonl", "results", "events.jsonl"}
    assert (batch.out / "secret").stat().st_mode & 0o777 == 0o600


def test_the_graders_memory_stays_flat(batch: Batch):
    steady = [m for m in batch.memory[len(batch.memory) // 4 :] if m]
    assert len(steady) > 20
    assert max(steady) < 150 * 2**20
    assert max(steady) - min(steady) < 30 * 2**20

r"""Boxes that are containers: podman's, skipped where it cannot with what it says, and a runner's."""

import copy
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from conftest import NOTEBOOK, ROOT
from hostile import files

from coursekit.grading import batch as batches
from coursekit.grading import boxes
from coursekit.grading.folder import Batch
from coursekit.grading.limits import MB, Limits
from coursekit.grading.plan import plan

pytestmark = pytest.mark.slow

IMAGE = "localhost/coursekit-test-box"
ANSWERS = Path(__file__).parent / "hostile" / "answers"
KINDS = {"04_memory_bomb": "memory_limit", "07_exit": "kernel_died", "11_daemon": "ok", "20_network": "wrong"}


def nothing_but_folders() -> bytes:
    r"""An image for systems whose /bin and /lib are links into /usr: the grader mounts that."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("usr", "etc", "proc", "sys", "dev", "tmp", "home", "home/student", "in", "var", "root"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for name in ("bin", "sbin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(link)
        archive.addfile(tarfile.TarInfo("etc/passwd"))
    return content.getvalue()


@pytest.fixture(scope="module")
def podman() -> None:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSEKIT_BOX_IMAGE", IMAGE)
        made = subprocess.run(["podman", "import", "-", IMAGE], input=nothing_but_folders(), capture_output=True)
        problem = made.stderr.decode() if made.returncode else boxes.probe("podman")
        if problem:
            pytest.skip(f"podman cannot run a container here: {problem}")
        yield
    subprocess.run(["podman", "rmi", "--force", IMAGE], capture_output=True)


def test_podmans_box_holds(podman, tmp_path: Path, solved: dict):
    place = tmp_path / "submissions"
    place.mkdir()
    files.save(place, "honest.ipynb", solved)
    for name in KINDS:
        notebook = copy.deepcopy(solved)
        files.cell_of(notebook, "lora_truncate")["source"] = (ANSWERS / f"{name}.py").read_text()
        files.save(place, f"{name}.ipynb", notebook)
    batch = Batch(tmp_path / "marks")
    batch.make()
    plan(place, batch, "podman", notebook=NOTEBOOK, limits=Limits(exercise=20, memory=1500 * MB))
    found = {r["submission"]: r for r in batches.grade_lines(batch)}
    assert {name: r["status"] for name, r in found.items()} == {**KINDS, "honest": "ok"}, json.dumps(found)
    listed = ["podman", "ps", "--all", "--format", "{{.Names}}"]
    assert "coursekit-" not in subprocess.run(listed, capture_output=True, text=True).stdout


def test_a_container_that_cannot_start_is_nobodys_fault_but_the_graders(
    podman, tmp_path: Path, solved: dict, monkeypatch
):
    (tmp_path / "submissions").mkdir()
    files.save(tmp_path / "submissions", "honest.ipynb", solved)
    batch = Batch(tmp_path / "marks")
    batch.make()
    plan(tmp_path / "submissions", batch, "podman", notebook=NOTEBOOK)
    monkeypatch.setenv("COURSEKIT_BOX_IMAGE", "localhost/there-is-no-such-image")
    assert batches.grade_lines(batch) == []
    assert "podman cannot start a container" in (batch.out / "events.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a runner is root in its container")
def test_a_runner_runs_and_the_grader_judges(tmp_path: Path, solved: dict, monkeypatch):
    r"""The runner from a copy of the package, which it closes to others for good."""
    course, place, door = tmp_path / "course", tmp_path / "submissions", tmp_path / "runner.sock"
    for path in (tmp_path, *tmp_path.parents):  # what stands above is closed where pytest made it
        if path.owner() == "root" and "pytest" in str(path):
            path.chmod(0o711)
    shutil.copytree(ROOT / "coursekit", course / "coursekit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data", course / "data")
    (course / "pyproject.toml").touch()
    place.mkdir()
    files.save(place, "honest.ipynb", solved)
    reads = copy.deepcopy(solved)
    source = f"import os\ndef lora_truncate(W, r):\n    os.listdir({str(course)!r})"
    files.cell_of(reads, "lora_truncate")["source"] = source
    files.save(place, "reads.ipynb", reads)
    command = [sys.executable, "-m", "coursekit.cli", "grade", "runner", "--socket", str(door)]
    environment = {**os.environ, "PYTHONPATH": str(course)}
    monkeypatch.setenv(boxes.VARIABLE, str(door))
    with subprocess.Popen(command, env=environment, cwd=tmp_path) as process:
        try:
            until = time.monotonic() + 120
            while boxes.probe("runner") and process.poll() is None and time.monotonic() < until:
                time.sleep(0.2)
            assert boxes.pick("runner") == "runner"
            batch = Batch(tmp_path / "marks")
            batch.make()
            plan(place, batch, "runner", notebook=NOTEBOOK, limits=Limits(exercise=30))
            found = {r["submission"]: r for r in batches.grade_lines(batch)}
        finally:
            process.kill()
    assert found["honest"]["status"] == "ok" and found["honest"]["box"] == "runner", found
    (spied,) = [e for e in found["reads"]["exercises"] if e["id"] == "lora-truncate"]
    assert "PermissionError" in spied["message"]
    assert "the runner does not answer" in (boxes.probe("runner") or "")

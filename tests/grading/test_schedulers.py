r"""The examples for schedulers: what they run is there, and the pod that runs a submission has nothing of the marks."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from conftest import ROOT

from coursekit.cli import app
from coursekit.grading.boxes import VARIABLE

SLURM = ROOT / "examples" / "slurm" / "grade.sbatch"
KUBERNETES = sorted((ROOT / "examples" / "kubernetes").glob("*.yaml"))


def test_the_slurm_array_grades_the_line_of_its_task(tmp_path: Path):
    assert subprocess.run(["bash", "-n", SLURM]).returncode == 0
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f"PATH={programs}:$PATH\n")
    (programs / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    python = f"PYTHONPATH={ROOT} exec {sys.executable} -m coursekit.cli"
    (programs / "coursekit").write_text(f'#!/bin/sh\n{python} "$@"\n')
    for name in ("srun", "coursekit"):
        (programs / name).chmod(0o755)
    lines = [{"index": i, "submission": f"student{i}", "key": None} for i in range(3)]
    (tmp_path / "marks").mkdir()
    (tmp_path / "marks" / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    environment = {"PATH": "/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "2", "HOME": str(tmp_path)}
    done = subprocess.run(["bash", SLURM], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "student2: nothing was submitted\n"), done.stderr
    environment["SLURM_ARRAY_TASK_ID"] = "3"
    done = subprocess.run(["bash", SLURM], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "the lines 0 to 2" in done.stderr


def jobs(path: Path) -> list[dict]:
    return [d["spec"]["template"]["spec"] for d in yaml.safe_load_all(path.read_text()) if d["kind"] == "Job"]


@pytest.mark.parametrize("path", KUBERNETES, ids=[p.stem for p in KUBERNETES])
def test_what_the_pods_run_is_a_command_of_the_course(path: Path):
    (pod,) = jobs(path)
    commands = typer.main.get_command(app)
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        words = container["command"]
        words = shlex.split(words[2]) if words[:2] == ["sh", "-c"] else words
        assert words[:2] == ["coursekit", "grade"]
        command = commands.commands["grade"].commands[words[2]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_the_runner_sees_neither_marks_nor_submissions():
    (pod,) = jobs(ROOT / "examples" / "kubernetes" / "apart.yaml")
    (runner,), (grader,) = pod["initContainers"], pod["containers"]
    assert [v["name"] for v in runner["volumeMounts"]] == ["exchange"]
    (named,) = [e["value"] for e in grader["env"] if e["name"] == VARIABLE]
    assert named == runner["command"][-1] and named.startswith(runner["volumeMounts"][0]["mountPath"])
    assert runner["restartPolicy"] == "Always"  # else the pod would wait for its end before the grader begins

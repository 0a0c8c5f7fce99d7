r"""A control group for a slot, where one can be made: the kernel counts memory and processes of all that a box starts.

Version 2 where its controllers are delegated, version 1 where root may; elsewhere None, and the limits of processes
(rlimits) and the supervisor's own counting stand alone.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from coursekit.grading.limits import MB, Limits

ROOT = Path("/sys/fs/cgroup")
#: What the prefork server and its supervisor may need beside the box.
SPARE = 512 * MB


@dataclass
class Cgroup:
    r"""`folders`: one of version 2, or those of version 1's memory and pids."""

    folders: list[Path]

    @classmethod
    def make(cls, name: str, limits: Limits) -> Cgroup | None:
        r"""A group called `name`; None where none can be made. Nothing is left where it fails half-way."""
        memory, processes = limits.memory + SPARE, limits.processes + 16
        made: list[Path] = []
        try:
            for parent, files in _places(memory, processes):
                _sweep(parent)
                folder = parent / name
                folder.mkdir()
                made.append(folder)
                for file, value in files.items():
                    (folder / file).write_text(str(value))
        except OSError:
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            return None
        return cls(made) if made else None

    def add(self, pid: int) -> None:
        r"""Put a process into it; what it starts from now on is in it too."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int:
        r"""How often the kernel has ended a process here for its memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    for line in (folder / name).read_text().splitlines():
                        if line.startswith("oom_kill "):
                            return int(line.split()[1])
        return 0

    def remove(self) -> None:
        r"""Take it away; it must be empty."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _sweep(parent: Path) -> None:
    r"""Take away the groups of graders that were killed; one in which something runs stays."""
    for folder in parent.glob("coursekit-*-*"):
        if not Path("/proc", folder.name.split("-")[1]).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


def _places(memory: int, processes: int) -> list[tuple[Path, dict[str, int]]]:
    r"""Folders in which a group can be made, with what to write there."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    unified = ROOT / own.get("", "/").lstrip("/")
    controllers = unified / "cgroup.subtree_control"
    if controllers.is_file() and {"memory", "pids"} <= set(controllers.read_text().split()):
        if os.access(unified, os.W_OK):
            return [(unified, {"memory.max": memory, "memory.swap.max": 0, "pids.max": processes})]
        return []
    if (ROOT / "memory" / "memory.limit_in_bytes").is_file():
        group = {c: p for names, p in own.items() for c in names.split(",")}
        return [
            (ROOT / "memory" / group.get("memory", "/").lstrip("/"), {"memory.limit_in_bytes": memory}),
            (ROOT / "pids" / group.get("pids", "/").lstrip("/"), {"pids.max": processes}),
        ]
    return []

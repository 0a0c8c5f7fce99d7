r"""What a submission may use. One place, so that a batch can be given others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MB = 2**20


@dataclass(frozen=True)
class Limits:
    r"""Seconds and bytes for one submission.

    run: seconds for the cells that the exercises need; exercise: for all questions of one exercise; whole: for the
    complete notebook. memory: of all processes together; disk: of each of its three folders in memory.
    """

    run: float = 60.0
    exercise: float = 10.0
    whole: float = 1800.0
    memory: int = 3072 * MB
    processes: int = 64
    file: int = 64 * MB
    output: int = 4 * MB
    disk: int = 256 * MB
    inodes: int = 10_000

    @property
    def again(self) -> float:
        r"""Seconds for the quick run of the whole notebook, where an exercise is not right."""
        return 2 * self.run

    def inside(self, exercises: int) -> dict[str, Any]:
        r"""As the supervisor and the prefork server take them, for a run with so many exercises."""
        return {
            "run": self.run,
            "exercise": self.exercise,
            "probe": self.exercise * exercises + 5,
            "memory": self.memory,
            "data": self.memory * 3 // 4,
            "processes": self.processes,
            "file": self.file,
            "output": self.output,
            "report": self.file - 2**20,  # before the kernel's limit, which would only look like an error
        }

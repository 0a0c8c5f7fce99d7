r"""The judge: a process of its own with torch and the expected answers, which never runs a line of a submission.

It forks for every request, so that neither a file that breaks a parser nor memory that is not given back stays in it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from coursekit.errors import CourseError
from coursekit.grading.inside.prefork_server import data_in_use
from coursekit.grading.inside.supervise import write_all

SECONDS = 30


class Crashed(RuntimeError):
    r"""The fork that looked at a submission's bytes was ended by them: by their size, or by a fault of a parser."""


class Unusable(RuntimeError):
    r"""There can be no judge: the checks cannot be loaded, which is a fault of the installation."""


class Judge:
    r"""The grader's end: `Judge(...).ask("mark", ...)`, one of work.REQUESTS. May be shared by threads."""

    def __init__(self, secret: bytes, ids: list[str], cases: int) -> None:
        self._lock = threading.Lock()
        self._setting = {"secret": secret.hex(), "ids": ids, "cases": cases}
        self._process: subprocess.Popen[str] | None = None

    def ask(self, what: str, **given: Any) -> Any:
        r"""One request, answered. Raises RuntimeError where the request cannot be answered at all, and CourseError for
        an exercise that the checks do not know.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            try:
                answer = self._say({"what": what, **given})
            except (OSError, ValueError, AttributeError):  # closed by another thread meanwhile
                self.close()
                raise RuntimeError(f"the judge ended while it was asked for {what}") from None
        if "error" in answer:
            raise (Crashed if answer.get("crashed") else RuntimeError)(answer["error"])
        return answer["answer"]

    def close(self) -> None:
        r"""End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _start(self) -> None:
        self.close()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        # The package that asks is the package that judges, also where it is not the installed one.
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self._process = process = subprocess.Popen(
            [sys.executable, "-P", "-m", "coursekit.grading.judge"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            answer = self._say(self._setting)
        except (OSError, ValueError, AttributeError):
            answer = {"error": f"the judge ended with status {process.wait()} while it loaded them"}
        if "told" in answer:
            raise CourseError(answer["told"])
        if "error" in answer:
            self.close()
            raise Unusable(
                f"the checks cannot be loaded ({answer['error']}): install the course and what it needs again"
            )

    def _say(self, request: dict[str, Any]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def main() -> None:
    r"""The judge's own loop: a setting, then requests, one JSON line each."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    setting = json.loads(sys.stdin.readline())
    gc.disable()  # what is imported stays: a fifth of the time went into looking for what could go
    try:
        import torch

        from coursekit.checks import every_kind
        from coursekit.grading.work import REQUESTS, Work

        torch.set_num_threads(1)
        import IPython.core.inputtransformer2  # noqa: F401  (once, not in every fork)

        every_kind()
        gc.enable()
        work = Work(bytes.fromhex(setting["secret"]), setting["ids"], setting["cases"])
        started = {"answer": "ready"}
    except CourseError as error:
        started = {"told": str(error)}
    except BaseException as error:  # a module may even end the process
        started = {"error": f"{type(error).__name__}: {error}"}
    # Here and below: a grader that was killed does not listen any more, and the end of its pipe is read next.
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(started), file=channel)
    if "answer" not in started:
        return
    gc.freeze()  # a collection in a fork would touch, and so copy, every page
    while line := sys.stdin.readline():
        said, say = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(said)
            _answer(work, REQUESTS, json.loads(line), say)
        os.close(say)
        with os.fdopen(said, "rb") as file:
            content = file.read()
        os.waitpid(pid, 0)
        ended = {"error": "the judge's helper ended", "crashed": True}
        with contextlib.suppress(BrokenPipeError):
            print(content.decode() if content else json.dumps(ended), file=channel)


def _answer(work: Any, requests: dict[str, Any], request: dict[str, Any], say: int) -> None:
    gc.disable()
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (data_in_use() + 2**31,) * 2)
        answer = {"answer": requests[request.pop("what")](work, **request)}
    except (MemoryError, RecursionError) as error:
        answer = {"error": f"{type(error).__name__}: {error}", "crashed": True}
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    write_all(say, json.dumps(answer).encode())
    os._exit(0)


if __name__ == "__main__":
    main()

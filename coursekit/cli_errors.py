r"""Uniform error handling and exit codes of the commands, and nothing left running."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import typer

from coursekit.errors import CourseError

#: Set in the environment of a process that is to end with the one that began it.
CHILD = "COURSEKIT_ENDS_WITH_STDIN"


def exit_cleanly(command: Callable[..., Any]) -> Callable[..., Any]:
    r"""What the user can put right is one line and status 1; Ctrl-C is status 130. A traceback is a bug."""

    @functools.wraps(command)
    def run(*args: Any, **settings: Any) -> Any:
        try:
            return command(*args, **settings)
        except CourseError as error:
            typer.echo(f"coursekit: {error}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("\ncoursekit: stopped; run the same command again to go on from here", err=True)
            raise typer.Exit(130) from None

    return run


def end_children_too() -> None:
    r"""A command that is ended, or whose terminal is closed, leaves no kernel behind: out through the `finally`s."""
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT"):
        if (number := getattr(signal, name, None)) and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def side_by_side(command: Sequence[str], processes: int) -> int:
    r"""Run `command` in so many processes, and wait; the number of those that failed.

    They end with this one, however it ends: each has a pipe from it as its standard input, and goes when that closes.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", CHILD: "1"}
    started = [
        subprocess.Popen([*command], env=environment, stdin=subprocess.PIPE) for _ in range(processes)
    ]
    try:
        return sum(process.wait() != 0 for process in started)
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
        for process in started:
            process.wait()


def end_with_parent() -> None:
    r"""In a process of `side_by_side`: end when the parent has gone. What is claimed is void with the process."""
    if os.environ.get(CHILD) and sys.stdin is not None:
        pipe = os.dup(sys.stdin.fileno())

        def watch() -> None:
            while os.read(pipe, 4096):
                pass
            os._exit(143)

        threading.Thread(target=watch, daemon=True).start()


def echo(text: object) -> None:
    r"""To stdout, where somebody may have stopped listening (`| head -1`): what was done is done all the same."""
    try:
        typer.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:  # Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

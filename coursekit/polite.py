r"""How a command of the command line ends: one line for what the user can put right, and nothing left running."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

from coursekit.errors import CourseError


def polite(command: Callable[..., Any]) -> Callable[..., Any]:
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


def end_kernels_too() -> None:
    r"""A terminated command must not leave a kernel behind: leave through the `finally` blocks."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

r"""Uniform error handling and exit codes of the commands, and nothing left running."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

from coursekit.errors import CourseError


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


class Commands(typer.Typer):
    r"""An app each of whose commands ends as `exit_cleanly` has it."""

    def command(self, *args: Any, **settings: Any) -> Callable[..., Any]:
        r"""As Typer's."""
        add = super().command(*args, **settings)
        return lambda command: add(exit_cleanly(command))


def end_children_too() -> None:
    r"""A command that is ended, or whose terminal is closed, leaves no kernel behind: out through the `finally`s."""
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT"):
        if (number := getattr(signal, name, None)) and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def echo(text: object) -> None:
    r"""To stdout, where somebody may have stopped listening (`| head -1`): what was done is done all the same."""
    try:
        typer.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:  # Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

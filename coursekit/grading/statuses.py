r"""What can become of a submission and of an exercise, and which word stands for the whole."""

from __future__ import annotations

from collections.abc import Iterable

#: From harmless to grave, for a submission has the gravest status of its exercises: what it is called on a page, its
#: colour there, of four, and what a student reads where nothing more exact is known.
STATUSES = {
    "ok": ("correct", "good", "right"),
    "not_attempted": ("not attempted", "idle", "not attempted: the function returns nothing yet"),
    "wrong": ("wrong", "bad", "not correct yet"),
    "missing_name": ("missing function", "bad", "there is no function with this name"),
    "error": ("error", "bad", "it raised an error"),
    "missing_dependency": ("missing package", "bad", "it needs a package that is not part of the course"),
    "incomplete": ("stopped early", "bad", "the notebook stopped before its last cell"),
    "invalid_output": ("unreadable answer", "bad", "its answer could not be read"),
    "output_limit": ("too much output", "bad", "it prints more than is allowed"),
    "disk_limit": ("too many files", "bad", "it writes more to disk than is allowed"),
    "process_limit": ("too many processes", "bad", "it starts more processes than are allowed"),
    "memory_limit": ("too much memory", "bad", "it uses more memory than is allowed"),
    "timeout": ("timed out", "bad", "it ran out of time"),
    "kernel_died": ("kernel died", "bad", "the kernel died"),
    "invalid_notebook": ("invalid notebook", "bad", "this is not a notebook that can be run"),
    "infrastructure": (
        "grader error", "grader", "the grader failed, through no fault of yours: it will be graded again",
    ),
}  # fmt: skip
SAYS = {status: says for status, (_, _, says) in STATUSES.items()}


def gravest(statuses: Iterable[str]) -> str:
    r"""The one status that speaks for all; a mix of nothing but `ok` and `not_attempted` is `wrong`."""
    found = set(statuses)
    if not found:
        return "not_attempted"
    if found == {"ok", "not_attempted"}:
        return "wrong"
    return max(found, key=[*STATUSES].index)

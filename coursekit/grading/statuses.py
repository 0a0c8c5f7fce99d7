r"""What can become of a submission and of an exercise, and which word stands for the whole."""

from __future__ import annotations

from collections.abc import Iterable

#: From harmless to grave: a submission has the gravest status of its exercises.
STATUSES = (
    "ok",
    "not_attempted",
    "wrong",
    "missing_name",
    "error",
    "missing_dependency",
    "incomplete",
    "invalid_output",
    "output_limit",
    "disk_limit",
    "process_limit",
    "memory_limit",
    "timeout",
    "kernel_died",
    "invalid_notebook",
    "infrastructure",
)

#: What a student reads where nothing more exact is known.
SAYS = {
    "ok": "right",
    "not_attempted": "not attempted: the function returns nothing yet",
    "wrong": "not correct yet",
    "missing_name": "there is no function with this name",
    "error": "it raised an error",
    "missing_dependency": "it needs a package that is not part of the course",
    "incomplete": "the notebook stopped before its last cell",
    "invalid_output": "its answer could not be read",
    "output_limit": "it prints more than is allowed",
    "disk_limit": "it writes more to disk than is allowed",
    "process_limit": "it starts more processes than are allowed",
    "memory_limit": "it uses more memory than is allowed",
    "timeout": "it ran out of time",
    "kernel_died": "the kernel died",
    "invalid_notebook": "this is not a notebook that can be run",
    "infrastructure": "the grader failed, through no fault of yours: it will be graded again",
}


def gravest(statuses: Iterable[str]) -> str:
    r"""The one status that speaks for all; a mix of nothing but `ok` and `not_attempted` is `wrong`."""
    found = set(statuses)
    if not found:
        return "not_attempted"
    if found == {"ok", "not_attempted"}:
        return "wrong"
    return max(found, key=STATUSES.index)

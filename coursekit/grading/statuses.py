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
    "not_attempted": "still to do: the function returns nothing",
    "wrong": "not right yet",
    "missing_name": "there is no function of this name",
    "error": "it stopped with an error",
    "missing_dependency": "it needs a package that is not part of the course",
    "incomplete": "the notebook was left before its end",
    "invalid_output": "its answer cannot be read",
    "output_limit": "it prints more than a notebook may",
    "disk_limit": "it writes more files than a notebook may",
    "process_limit": "it starts more processes than a notebook may",
    "memory_limit": "it needs more memory than a notebook may",
    "timeout": "it takes longer than it may",
    "kernel_died": "the kernel died",
    "invalid_notebook": "this is no notebook that can be run",
    "infrastructure": "the grader failed, not you: it will be graded again",
}


def gravest(statuses: Iterable[str]) -> str:
    r"""The one status that speaks for all; a mix of nothing but `ok` and `not_attempted` is `wrong`."""
    found = set(statuses)
    if not found:
        return "not_attempted"
    if found == {"ok", "not_attempted"}:
        return "wrong"
    return max(found, key=STATUSES.index)

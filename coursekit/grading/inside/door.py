r"""As root: show the slot's user what it needs and no more, then become that user and start the zygote.

`python -m coursekit_box.door UID PATH... -- COMMAND...`
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from . import namespaces


def main(arguments: list[str]) -> None:
    r"""Replaces this process by COMMAND, run by setpriv as user UID."""
    at = arguments.index("--")
    user, paths, command = arguments[0], arguments[1:at], arguments[at + 1 :]
    with contextlib.suppress(
        OSError
    ):  # where that is allowed: the kernel shall end a submission before its zygote
        Path("/proc/self/oom_score_adj").write_text("-500")
    namespaces.show_only(paths)
    drop = [
        "setpriv",
        "--reuid",
        user,
        "--regid",
        user,
        "--clear-groups",
        "--inh-caps=-all",
        "--no-new-privs",
    ]
    os.execvp(drop[0], [*drop, "--", *command])


if __name__ == "__main__":
    main(sys.argv[1:])

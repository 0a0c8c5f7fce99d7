r"""Papermill's own command, run as a script: it starts two seconds sooner."""

import sys

# jsonschema, which nbformat brings, does without it: a grammar for addresses, of which notebooks have none.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

if __name__ == "__main__":
    from papermill.cli import papermill

    papermill(prog_name="papermill")

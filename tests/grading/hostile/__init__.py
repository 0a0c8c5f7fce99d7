r"""Submissions that attack, break or mislead a grader: `answers/` by code, `files.py` as files."""

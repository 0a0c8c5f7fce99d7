r"""Submissions that attack, break or mislead a grader: `answers/` by their code, `files.py` by what they are as files."""

r"""Every method of the course on one task, under the same conditions: `coursekit compare`, and what reads its lines.

`compare(...)` writes one JSON line a run, `read(path)` gives them back, `summary(lines)` has one row a method, and
`to_csv`/`from_csv` keep such rows.
"""

from coursekit.comparison.candidates import CANDIDATES, Candidate
from coursekit.comparison.compare import AROUND, Setting, compare
from coursekit.comparison.files import read
from coursekit.comparison.rows import Row, check_target, from_csv, summary, table, to_csv

__all__ = [
    "AROUND", "CANDIDATES", "Candidate", "Row", "Setting", "check_target", "compare", "from_csv", "read", "summary",
    "table", "to_csv",
]  # fmt: skip

r"""Every method of the course on one task, under the same conditions, and which to take.

`compare(...)` is `coursekit compare`: it writes a CSV of runs. `summary(runs)` has one row a method, and
`to_csv`/`from_csv` keep such rows.
"""

from coursekit.comparison.candidates import CANDIDATES, Candidate
from coursekit.comparison.compare import AROUND, compare
from coursekit.comparison.rows import Row, check_target, from_csv, summary, table, to_csv
from coursekit.experiments.bench import Setting

__all__ = [
    "AROUND", "CANDIDATES", "Candidate", "Row", "Setting", "check_target", "compare", "from_csv", "summary", "table",
    "to_csv",
]  # fmt: skip

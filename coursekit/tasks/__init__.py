r"""Tasks: from text to splits to batches.

Open `task.py` first: the sentiment tasks. `prepared.py` is token ids and how rows become a batch, for all tasks.
"""

from coursekit.tasks.instructions import load_instructions, prepare_instructions
from coursekit.tasks.prepared import Prepared
from coursekit.tasks.task import QUINTILES, WORDS, PreparedTask, Task, load_task, load_text

__all__ = [
    "Prepared", "PreparedTask", "Task", "QUINTILES", "WORDS", "load_instructions", "load_task", "load_text",
    "prepare_instructions",
]  # fmt: skip

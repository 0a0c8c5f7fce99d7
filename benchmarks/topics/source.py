r"""A task that is no sentiment: which of the four sources a sentence is from."""

import random
from dataclasses import replace

from datasets import Dataset, DatasetDict
from topics._film import SETTING as FILM
from topics.product import GRID as PRODUCT

from coursekit.tasks.sentiment import FILES
from coursekit.tasks.task import Task, load_task

__all__ = ["GRID", "SETTING", "task"]

SETTING = replace(FILM, domain="source", labels="four")


def task() -> Task:
    r"""As many sentences of each source as the smallest has, in one order drawn once."""
    sources = {name: load_task(name, "five").data for name in FILES}
    data = DatasetDict()
    for split in ("train", "validation", "test"):
        n = min(len(of[split]) for of in sources.values())
        rows = [(row, label) for label, of in enumerate(sources.values()) for row in of[split].select(range(n))]
        random.Random(0).shuffle(rows)
        data[split] = Dataset.from_list([dict(row, label=label) for row, label in rows])
    return Task("source/four", tuple(sources), data)


GRID = replace(PRODUCT, topic="source")

r"""Findings: sentences of a notebook with a number, guarded by the evidence that the number is from.

A test computes the number from `data/evidence/`, writes the sentence's key phrase with it, and asks the notebook:

    from finding import said
    from coursekit.experiments import results

    def test_lora_trails_full_fine_tuning():
        lora = results.read("lora")
        found = lora.difference("qv-r8", "full")
        assert found.verdict == "worse"
        said("06_lora", f"LoRA on query and value is {found}")

It fails when the notebook's text changes alone, and when the data change alone.
"""

import re
import statistics
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

import nbformat
import pytest

from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import Results
from coursekit.experiments.verdict import Verdict

ROOT = Path(__file__).resolve().parents[2]


def said(page: str, phrase: str) -> None:
    r"""Fail unless `page` says `phrase` in the open: not in a `<details>` fold, not in code, not in an output.

    page: a notebook's stem, or the path of a Markdown file. White space and bold, italic or code marks do not count.
    """
    text, wanted = in_the_open(page), plain(phrase)
    if wanted not in text:
        pytest.fail(f"{page} does not say {wanted!r}; the nearest it says is {nearest(wanted, text)!r}", pytrace=False)


def tenths(found: Difference) -> str:
    r"""As `str(found)`, with the decimals of a table: "better by 5.5 points (2.2 to 8.7)"."""
    if found.verdict is Verdict.EQUAL:
        return str(found)
    value, ends = found.in_points()[:-1].split(" (")
    if found.verdict is Verdict.UNCLEAR:
        return f"{found.verdict} ({ends} points)"
    if found.verdict is Verdict.WORSE:
        value, ends = (-found).in_points()[:-1].split(" (")
    return f"{found.verdict} by {value} points ({ends})".replace("+", "")


def printed(page: str, pattern: str) -> tuple[str, ...]:
    r"""Groups of the first match of `pattern` in what the committed notebook `page` printed: a demonstration's numbers,
    which its text has to agree with. Fails where there is none.
    """
    outputs = [output for cell in read(page).cells for output in cell.get("outputs", [])]
    text = "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)
    found = re.search(pattern, text)
    if not found:
        pytest.fail(f"{page} prints nothing like {pattern!r}", pytrace=False)
    return found.groups()


@cache
def read(page: str) -> nbformat.NotebookNode:
    r"""The committed notebook `page`, read once in a process; it stays as it is."""
    return nbformat.read(ROOT / "notebooks" / f"{page}.ipynb", as_version=4)


@cache
def in_the_open(page: str) -> str:
    r"""The Markdown that a reader sees without opening anything."""
    if page.endswith(".md"):
        cells = [(ROOT / page).read_text(encoding="utf-8")]
    else:
        cells = [cell.source for cell in read(page).cells if cell.cell_type == "markdown"]
    return plain("\n".join(re.sub(r"<details.*?(</details>|\Z)", "", cell, flags=re.DOTALL) for cell in cells))


def plain(text: str) -> str:
    r"""`text` with single spaces and without marks for bold, italic and code."""
    return " ".join(re.sub(r"[*`]|(?<!\w)_|_(?!\w)", "", text).split())


def nearest(wanted: str, text: str) -> str:
    r"""The sentence of `text` that shares most with `wanted`, for a test's message."""
    sentences = re.split(r"(?<=[.:;!?]) ", text)
    return max(sentences, key=lambda one: SequenceMatcher(None, one, wanted, autojunk=False).ratio(), default="")


def tied(runs: Results, arm: str, steps: int) -> list[float]:
    r"""The learning rates of `arm` that tie on validation after `steps`, the lowest first: in the mean of three seeds
    less than half a sentence of 300 behind the best. Lower and higher ones were tried, and are a point or more behind.
    """
    seeds: dict[float, list[float]] = {}
    for run in runs.runs:
        if (run.cell.arm, run.cell.steps) == (arm, steps):
            seeds.setdefault(run.cell.rate, []).append(run.validation)
    reached = {rate: statistics.fmean(own) for rate, own in seeds.items()}
    found = sorted(rate for rate, value in reached.items() if max(reached.values()) - value < 0.5 / 300)
    others = reached.keys() - {*found}
    assert {len(own) for own in seeds.values()} == {3} and min(others) < found[0] and found[-1] < max(others)
    assert max(reached[rate] for rate in others) < min(reached[rate] for rate in found) - 0.01
    return found


def once_beside(runs: Results, arm: str) -> set[float]:
    r"""The learning rates next to the best one of `arm` that a single seed tried: what makes a row preliminary. Longer
    runs search no rate.
    """
    tried = list(runs.by_rate(arm))
    at = tried.index(runs.rate(arm)) if tried else 0
    return {*tried[max(at - 1, 0) : at], *tried[at + 1 : at + 2]} & {*runs.once(arm)}

r"""The four domains of rated sentences: read, cleaned and split.

Source: Hutto & Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM
2014. Each sentence carries the mean of about 20 human ratings from −4 (extremely negative) to 4 (extremely positive).

What is done to the text: white space is collapsed, HTML entities are decoded (`&amp;` in tweets), and the `''` that the
source writes for a double quote becomes `"`. Spelling, case and punctuation stay. The files are UTF-8, although they
are often read as latin-1, which garbles "cliché" in 133 film sentences.

What is done to the rows: of sentences equal after normalising case and white space only the first stays. Product
reviews and newspaper editorials are numbered document_sentence; a document is never torn between two splits, so a model
is not tested on the rest of a text it was trained on, and of near copies (equal but for punctuation) in two documents
only the first stays. Film sentences and tweets come without documents: sentences of one review may lie in two splits
there. Tweets have near copies on purpose ("Yay." and "YAY!!!", rated apart); they stay, all in one split.
"""

from __future__ import annotations

import html
from collections import defaultdict
from functools import cache
from statistics import fmean
from typing import NamedTuple

from coursekit.errors import one_of
from coursekit.models import sources
from coursekit.models.cache import explained
from coursekit.tasks.splits import assign, near_key, normalise, position

FILES = {
    "film": "movieReviewSnippets",
    "product": "amazonReviewSnippets",
    "tweet": "tweets",
    "newspaper": "nytEditorialSnippets",
}
SPLITS = ("train", "validation", "test")


class Sentence(NamedTuple):
    r"""One rated sentence; `document` is empty where the source names none."""

    document: str
    text: str
    rating: float


def clean(text: str) -> str:
    r"""`text` with its HTML entities decoded, `''` written as `"`, and white space collapsed."""
    # Some of the source is escaped twice: &amp;amp;.
    while (plain := html.unescape(text)) != text:
        text = plain
    return " ".join(text.replace("''", '"').split())


@cache
def sentences(domain: str) -> tuple[Sentence, ...]:
    r"""All distinct sentences of a domain, in the order of the file. Raises CourseError for an unknown domain."""
    one_of("task", domain, FILES)
    file = sources.sentiment() / f"{FILES[domain]}_GroundTruth.txt"
    seen: set[str] = set()
    owner: dict[str, str] = {}
    rows = []
    with explained(f"the {domain} sentences"):
        lines = file.read_text(encoding="utf-8").splitlines()
    for line in lines:
        number, rating, text = line.split("\t")
        row = Sentence(number.rpartition("_")[0], clean(text), float(rating))
        same = normalise(row.text)
        if same not in seen and owner.setdefault(near_key(row.text), _unit(row)) == _unit(row):
            seen.add(same)
            rows.append(row)
    return tuple(rows)


@cache
def split_sentences(domain: str) -> dict[str, tuple[Sentence, ...]]:
    r"""The sentences of a domain by split, in a fixed shuffled order: the first n of a split are a fair sample."""
    ratings: dict[str, list[float]] = defaultdict(list)
    for row in sentences(domain):
        ratings[_unit(row)].append(row.rating)
    split_of = assign({unit: fmean(values) for unit, values in ratings.items()})
    ordered = sorted(sentences(domain), key=lambda row: position(normalise(row.text)))
    return {split: tuple(row for row in ordered if split_of[_unit(row)] == split) for split in SPLITS}


def _unit(row: Sentence) -> str:
    return f"document {row.document}" if row.document else near_key(row.text)

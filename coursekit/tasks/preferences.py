r"""Pairs of a better and a worse answer to one prompt, for preference tuning.

The course's own come from rated text: asked for a sentence of a review, a sentence that people rated well is the
chosen answer and one that they rated badly the rejected one. Both have about the same length, so that a model cannot
win by length alone.
"""

from __future__ import annotations

from datasets import Dataset, DatasetDict

from coursekit.tasks.sentiment import SPLITS, split_sentences

_ASKED = {
    "film": "Write one sentence of a film review.",
    "product": "Write one sentence of a product review.",
    "tweet": "Write a tweet.",
    "newspaper": "Write one sentence of a newspaper editorial.",
}
#: The chosen sentence is rated at least this, the rejected one at most minus this, out of −4…4.
CLEAR = 1.5
#: Words that a sentence may have: short ones say little, long ones are slow.
_WORDS = (6, 30)


def rated_pairs(domain: str = "film") -> DatasetDict:
    r"""Preference pairs from rated sentences of a domain, columns `prompt`, `chosen`, `rejected` (all strings), in the
    splits of the sentences. Every sentence is in one pair at most, and the two of a pair have equally many words.
    """
    found = {}
    for split in SPLITS:
        sentences = split_sentences(domain)[split]  # an unknown domain is an error here
        fit = [s for s in sentences if _WORDS[0] <= len(s.text.split()) <= _WORDS[1]]
        worse: dict[int, list[str]] = {}
        for s in fit:
            if s.rating <= -CLEAR:
                worse.setdefault(len(s.text.split()), []).append(s.text)
        rows = []
        for s in fit:
            left = worse.get(len(s.text.split()))
            if s.rating >= CLEAR and left:
                rows.append({"prompt": _ASKED[domain], "chosen": s.text, "rejected": left.pop(0)})
        found[split] = Dataset.from_list(rows)
    return DatasetDict(found)

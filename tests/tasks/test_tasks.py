r"""Splits that do not leak, labels that are what they say, and token ids worked out by hand."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tiny_text
import torch
from datasets import Dataset, DatasetDict

from coursekit import tasks
from coursekit.errors import CourseError
from coursekit.labels import IGNORED
from coursekit.tasks import QUINTILES, load_instructions, load_task, load_text, prepare_instructions
from coursekit.tasks.sentiment import FILES, clean, sentences
from coursekit.tasks.splits import near_key, normalise

SIZES = {
    "film": (7952, 530, 2121),
    "product": (2745, 194, 750),
    "tweet": (3107, 209, 824),
    "newspaper": (3793, 291, 1034),
}


@pytest.fixture(scope="session")
def words():
    return tiny_text.tokenizer()


@pytest.mark.parametrize("domain", FILES)
def test_splits_have_fixed_sizes_and_share_no_sentence(domain):
    data = load_task(domain, "five").data
    assert tuple(map(len, data.values())) == SIZES[domain]
    for key in (normalise, near_key):
        seen = [{key(text) for text in rows["text"]} for rows in data.values()]
        assert sum(map(len, seen)) == len(set.union(*seen))
    texts = [normalise(text) for rows in data.values() for text in rows["text"]]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize("domain", ["product", "newspaper"])
def test_no_document_is_torn(domain):
    document = {row.text: row.document for row in sentences(domain)}
    seen = [{document[text] for text in rows["text"]} for rows in load_task(domain, "five").data.values()]
    assert all("" not in documents for documents in seen)
    assert sum(map(len, seen)) == len(set.union(*seen))


@pytest.mark.parametrize("domain", FILES)
def test_label_schemes_share_the_splits(domain):
    five = {split: set(rows["text"]) for split, rows in load_task(domain, "five").data.items()}
    for split, texts in five.items():
        assert set(load_task(domain, "two").data[split]["text"]) < texts
        assert set(load_text(domain)[split]["text"]) == texts


@pytest.mark.parametrize("domain", FILES)
def test_splits_are_stratified(domain):
    for scheme in ("two", "five"):
        data = load_task(domain, scheme).data
        train = np.bincount(data["train"]["label"]) / len(data["train"])
        for split in ("validation", "test"):
            share = np.bincount(data[split]["label"]) / len(data[split])
            # Sentence by sentence the strata are exact to a few rows; whole documents are coarser.
            tolerance = 0.015 if domain in ("film", "tweet") else 0.045
            assert share == pytest.approx(train, abs=tolerance)


@pytest.mark.parametrize("domain", FILES)
def test_quintile_edges_are_the_quintiles(domain):
    r"""Each edge lies between two ratings that occur, and no other place between two is nearer to its fifth."""
    ratings = np.array([row.rating for row in sentences(domain)])
    values = np.unique(ratings)
    places = (values[1:] + values[:-1]) / 2
    below = np.array([(ratings < place).mean() for place in places])
    for fifth, edge in zip((0.2, 0.4, 0.6, 0.8), QUINTILES[domain], strict=True):
        assert edge not in values
        assert abs((ratings < edge).mean() - fifth) == pytest.approx(np.abs(below - fifth).min(), abs=1e-12)
    grades = np.concatenate([rows["label"] for rows in load_task(domain, "five").data.values()])
    assert np.bincount(grades) / len(grades) == pytest.approx([0.2] * 5, abs=0.015)


@pytest.mark.parametrize("domain", FILES)
def test_labels_follow_the_rating(domain):
    two, five = (load_task(domain, scheme).data["test"][:] for scheme in ("two", "five"))
    assert all(abs(value) > 0.5 for value in two["rating"])
    assert two["label"] == [int(value > 0) for value in two["rating"]]
    edges = QUINTILES[domain]
    assert five["label"] == [sum(value > edge for edge in edges) for value in five["rating"]]
    assert load_task(domain, "two").data["test"].features["label"].names == ["negative", "positive"]


def test_majority_is_what_always_answering_the_same_scores():
    task = load_task("tweet", "two")
    counts = Counter(task.data["test"]["label"])
    assert task.majority == counts[1] / sum(counts.values()) > 0.6


def test_text_is_clean():
    assert clean("a  &lt;b&gt;\t&amp; ''c''") == 'a <b> & "c"'
    texts = [row.text for domain in FILES for row in sentences(domain)]
    assert not [text for text in texts if "&amp;" in text or "''" in text or text != text.strip()]
    # Read as latin-1 these would be "clichÃ©s".
    assert any("clichés" in text for text in texts) and not any("Ã" in text for text in texts)


@pytest.mark.parametrize("domain", FILES)
def test_shots_are_fixed_training_sentences_one_per_class(domain):
    task = load_task(domain, "five")
    shots = task.shots(5)
    label = dict(zip(task.data["train"]["text"], task.data["train"]["label"], strict=True))
    assert all(task.labels[label[text]] == word for text, word in shots)
    assert Counter(word for _, word in shots) == dict.fromkeys(task.labels, 1)
    assert Counter(word for _, word in task.shots(10)) == dict.fromkeys(task.labels, 2)
    assert task.shots(10)[:5] == shots and task.shots(0) == []
    with pytest.raises(CourseError, match="too few"):
        task.shots(10**6)


def sentences_of(texts, labels, scheme="two"):
    r"""A film task over given sentences instead of the real ones."""
    rows = Dataset.from_dict({"text": texts, "rating": [0.0] * len(texts), "label": labels})
    return tasks.Task(f"film/{scheme}", tasks.WORDS[scheme], DatasetDict(train=rows, test=rows))


def test_causal_example_worked_by_hand(words):
    ids = words.convert_tokens_to_ids
    task = sentences_of(["the plot is good", "bad and not a story to film"], [1, 0])
    assert task.prompt("the plot is good") == "Film review: the plot is good\nSentiment:"
    prepared = task.for_decoder(words)
    row = prepared.data["train"][0]
    prompt = ["[UNK]", "review", ":", "the", "plot", "is", "good", "[UNK]", ":"]
    assert row["input_ids"] == ids([*prompt, "positive"])
    assert row["labels"] == [IGNORED] * 9 + ids(["positive"])
    assert row["attention_mask"] == [1] * 10

    batch = prepared.collate(list(prepared.data["train"]))
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 13)
    assert batch["input_ids"][0, 10:].tolist() == [words.pad_token_id] * 3
    assert batch["attention_mask"].sum(1).tolist() == [10, 13]
    assert (batch["labels"] != IGNORED).sum(1).tolist() == [1, 1]
    assert batch["labels"][1, 12] == ids("negative")


def test_cutting_shortens_the_sentence_and_never_the_answer(words):
    ids = words.convert_tokens_to_ids
    task = sentences_of(["the plot is good and bright and fine"], [1])
    row = task.for_decoder(words, max_length=9).data["train"][0]
    prompt = ["[UNK]", "review", ":", "the", "plot", "is", "[UNK]", ":"]
    assert row["input_ids"] == ids([*prompt, "positive"])
    assert row["labels"] == [IGNORED] * 8 + ids(["positive"])
    with pytest.raises(CourseError, match="no room for a sentence"):
        task.for_decoder(words, max_length=6)


def test_encoder_rows_and_batches(words):
    prepared = sentences_of(["the plot is good", "dull"], [1, 0]).for_encoder(words, max_length=3)
    batch = prepared.collate(list(prepared.data["train"]))
    assert batch["input_ids"].tolist() == [words.convert_tokens_to_ids(["the", "plot", "is"]),
                                           words.convert_tokens_to_ids(["dull", "[PAD]", "[PAD]"])]  # fmt: skip
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]


def test_shuffled_labels_keep_sentences_and_shares(words):
    whole = load_task("product", "two").for_encoder(words)
    control = whole.shuffled_labels(seed=0)
    ours, theirs = (prepared.data["train"][:] for prepared in (control, whole))
    assert ours["input_ids"] == theirs["input_ids"]
    assert ours["labels"] != theirs["labels"] and sorted(ours["labels"]) == sorted(theirs["labels"])
    assert control.data["test"].to_list() == whole.data["test"].to_list()
    assert control.collate([control.data["train"][0]])["labels"].dtype == torch.int64
    with pytest.raises(CourseError, match="use an encoder"):
        replace(whole, kind="decoder").shuffled_labels(seed=0)


def test_take_keeps_the_first_rows(words):
    whole = load_task("product", "two").for_encoder(words)
    part = whole.take(7)
    assert part.data["train"].to_list() == whole.data["train"].select(range(7)).to_list()
    assert len(part.data["test"]) == len(whole.data["test"])
    with pytest.raises(CourseError, match="has 2176 rows"):
        whole.take(9999)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_task("flim"), "unknown task 'flim'; did you mean 'film'"),
        (lambda: load_task("film", "fife"), "unknown label scheme 'fife'; did you mean 'five'"),
        (lambda: load_text("tweets"), "unknown text 'tweets'; did you mean 'tweet'"),
    ],
)
def test_bad_requests_are_one_clear_line(call, message):
    with pytest.raises(CourseError) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [None, 0, -1, 2.5, True, "64"])
def test_lengths_and_counts_are_whole_numbers(wrong, words):
    task = sentences_of(["the plot is good", "dull"], [1, 0])
    for call in (lambda: task.for_encoder(words, wrong), lambda: task.for_decoder(words, wrong)):
        with pytest.raises(CourseError, match="max_length must be a positive integer, such as .*; got"):
            call()
    with pytest.raises(CourseError, match="n must be a positive integer; got"):
        task.for_encoder(words).take(wrong)
    if wrong != 0:
        with pytest.raises(CourseError, match="k must be a non-negative integer; got"):
            task.shots(wrong)
    rows = DatasetDict(train=Dataset.from_list([{"instruction": "a", "context": "", "output": "b", "kind": ""}]))
    with pytest.raises(CourseError, match="max_length must be an integer of at least 2, such as 256; got"):
        prepare_instructions(rows, words, wrong)


def test_batches_are_the_first_rows_in_their_order(words):
    prepared = sentences_of(["the plot is good", "dull", "bad", "slow and long", "fine"], [1, 0, 0, 0, 1]).for_encoder(
        words
    )
    rows = list(prepared.data["train"])
    for limit, sizes in ((None, [2, 2, 1]), (3, [2, 1]), (9, [2, 2, 1])):
        found = list(prepared.batches("train", 2, limit))
        assert [len(batch["labels"]) for batch in found] == sizes
        start = 0
        for batch in found:
            expected = prepared.collate(rows[start : start + len(batch["labels"])])
            assert all(torch.equal(batch[name], expected[name]) for name in expected)
            start += len(batch["labels"])
    for wrong in (dict(batch_size=0), dict(batch_size=2, limit=0)):
        with pytest.raises(CourseError, match="must be a positive integer; got 0."):
            next(prepared.batches("train", **wrong))


@pytest.mark.parametrize("name", ["attention_mask", "labels"])
def test_a_mask_or_labels_that_are_too_short_are_no_padding(words, name):
    prepared = sentences_of(["the plot is good"], [1]).for_decoder(words)
    (row,) = prepared.data["train"].to_list()
    row[name] = row[name][:-1]
    with pytest.raises(CourseError, match=f"has 10 input_ids and 9 {name}: there must be one for each token"):
        prepared.collate([row])


def test_room_is_left_for_the_longest_word_whatever_the_right_one(words):
    r"""A short label must not let more of the sentence be read: the length would tell the class."""
    texts = ["the plot is good and bright and fine"] * 2
    rows = Dataset.from_dict({"text": texts, "rating": [0.0, 0.0], "label": [0, 1]})
    task = tasks.Task("film/own", ("bad", "good and bright"), DatasetDict(train=rows, test=rows))
    short, long = task.for_decoder(words, max_length=11).data["train"]
    assert len(short["input_ids"]) == 9 and len(long["input_ids"]) == 11
    assert short["input_ids"][:8] == long["input_ids"][:8]
    assert task.fitted(words, 11, texts) == ["the plot is"] * 2


def test_words_that_begin_alike_are_refused(words):
    with pytest.raises(CourseError, match="with the same token"):
        tasks.Task("film/two", ("dark", "murky", "shady"), DatasetDict()).answer_ids(words)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["two", "five"])
def test_every_word_is_one_token_of_smollm2(scheme):
    from coursekit.models import load_decoder

    _, tokenizer = load_decoder("smollm2")
    task = load_task("film", scheme)
    answers = task.answer_ids(tokenizer)
    assert [len(answer) for answer in answers] == [1] * len(task.labels)
    assert [tokenizer.decode(answer) for answer in answers] == [f" {word}" for word in task.labels]
    prepared = task.for_decoder(tokenizer)
    for row, text in zip(list(prepared.data["test"])[:20], task.data["test"]["text"], strict=False):
        word = task.labels[answers.index(row["labels"][-1:])]
        assert tokenizer.decode(row["input_ids"]) == f"{task.prompt(text)} {word}"


# Instructions


ROWS = [
    {"instruction": f"Name the colour {i}", "input": "red" if i % 2 else "", "output": "blue", "kind": "ab"[i % 2]}
    for i in range(40)
]


@pytest.fixture
def alpaca(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


def test_instructions_in_any_layout(tmp_path, alpaca):
    data = load_instructions(alpaca)
    assert set(data) == {"train", "validation", "test"}
    assert data["train"].column_names == ["instruction", "context", "output", "kind", "check"]
    (tmp_path / "some.json").write_text(json.dumps(ROWS), encoding="utf-8")
    rows = Dataset.from_list(ROWS)
    rows.to_csv(tmp_path / "some.csv")
    rows.to_parquet(tmp_path / "some.parquet")
    for suffix in ("json", "csv", "parquet"):
        other = load_instructions(tmp_path / f"some.{suffix}")
        assert {split: found.to_list() for split, found in other.items()} == {s: d.to_list() for s, d in data.items()}
    hub = tmp_path / "hub"
    (hub / "data").mkdir(parents=True)
    rows.select(range(30)).to_parquet(hub / "data" / "train-00000-of-00001.parquet")
    rows.select(range(30, 40)).to_parquet(hub / "data" / "test-00000-of-00001.parquet")
    assert {split: len(found) for split, found in load_instructions(hub).items()} == {
        "train": 30, "validation": 0, "test": 10
    }  # fmt: skip


def test_instruction_splits_are_fixed_and_hold_every_kind(alpaca):
    data = load_instructions(alpaca)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 30, "validation": 2, "test": 8}
    assert Counter(data["test"]["kind"]) == {"a": 4, "b": 4}
    alpaca.write_text("\n".join(reversed(alpaca.read_text(encoding="utf-8").splitlines())), encoding="utf-8")
    again = load_instructions(alpaca)
    assert all(set(again[split]["instruction"]) == set(data[split]["instruction"]) for split in data)


def test_the_courses_own_instructions():
    data = load_instructions()
    rows = [row for split in data.values() for row in split]
    assert len(rows) >= 300 and len({(row["instruction"], row["context"]) for row in rows}) == len(rows)
    kinds = {split: set(found["kind"]) for split, found in data.items()}
    assert kinds["test"] == kinds["train"]


def test_rows_that_differ_or_lack_an_answer(tmp_path):
    rows = [
        {"instruction": "a", "output": "b", "check": [1]},
        {"instruction": "c", "output": 4, "context": "d", "check": "x"},
        {"instruction": "e", "output": " "},
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.warns(UserWarning, match="1 of 3 rows have no instruction or no output"):
        data = load_instructions(path)
    found = sorted(tuple(row.values()) for split in data.values() for row in split)
    assert found == [("a", "", "b", "", "[1]"), ("c", "d", "4", "", "x")]


def test_an_instruction_worked_by_hand(words):
    row = {"instruction": "Name the capital of France", "context": "", "output": "Paris .", "kind": "fact"}
    rows = Dataset.from_list([row])
    ids = words.convert_tokens_to_ids
    plain = prepare_instructions(DatasetDict(train=rows), words).data["train"][0]
    answer = ids(["Paris", ".", "[EOS]"])
    prompt = ["###", "Instruction", ":", "Name", "the", "capital", "of", "France", "###", "Response", ":"]
    assert plain["input_ids"] == ids(prompt) + answer
    assert plain["labels"] == [IGNORED] * len(prompt) + answer

    words = tiny_text.tokenizer()
    words.chat_template = (
        "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}Response :{% endif %}"
    )
    chat = prepare_instructions(DatasetDict(train=rows), words).data["train"][0]
    prompt = ["[UNK]", ":", "Name", "the", "capital", "of", "France", "Response", ":"]
    assert chat["input_ids"] == ids(prompt) + answer
    assert chat["labels"] == [IGNORED] * len(prompt) + answer


def test_bad_instruction_sources_are_one_clear_line(tmp_path):
    for name, text, message in (
        ("gone.jsonl", None, "no instruction data at"),
        ("gone.csv", None, "no instruction data at"),
        ("broken.jsonl", '{"instruction": "a", "output": "b"}\n{"instr', "line 2: not JSON"),
        ("list.json", "[1, 2]", "every row must be a JSON object"),
        ("other.jsonl", '{"instruction": "a", "text": "b"}', "no column output or response"),
        ("no/such-dataset", None, "instruction data"),
    ):
        path = tmp_path / name
        if text is not None:
            path.write_text(text, encoding="utf-8")
        with pytest.raises(CourseError, match=message) as error:
            load_instructions(path if "/" not in name else name)
        assert "\n" not in str(error.value)


def test_short_sentences_are_those_of_a_task_and_no_longer_ones():
    whole, few = load_task("film", "two"), load_task("film", "two").short(8)
    assert (few.name, few.labels) == (whole.name, whole.labels)
    for split, rows in whole.data.items():
        wanted = [row for row in rows.to_list() if len(row["text"].split()) <= 8]
        assert few.data[split].to_list() == wanted and 0 < len(wanted) < len(rows)
    with pytest.raises(CourseError, match="short\\(1\\): film/two has no sentences that short"):
        whole.short(1)

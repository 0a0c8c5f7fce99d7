r"""What is learned of a conversation, what is left out, and what packing changes: all against examples by hand."""

from __future__ import annotations

import time

import pytest
import tiny
import tiny_text
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from coursekit.errors import CourseError
from coursekit.labels import IGNORED
from coursekit.tasks.conversations import (
    Cut,
    Encoded,
    Segment,
    encode,
    prepare_encoded,
    segments,
)
from coursekit.tasks.instructions import instruction_segments, load_instructions, prepare_instructions
from coursekit.tasks.packing import bins, blocks
from coursekit.training import fit

#: Each turn as "### role text [EOS] ;" with ";" written by the program between two turns.
TEMPLATE = (
    "{% for m in messages %}### {{ 'Response' if m['role'] == 'assistant' else 'Input' }} {{ m['content'] }}[EOS] , "
    "{% endfor %}{% if add_generation_prompt %}### Response {% endif %}"
)
TWO_TURNS = [
    {"role": "user", "content": "Name one colour"},
    {"role": "assistant", "content": "red"},
    {"role": "user", "content": "Name two"},
    {"role": "assistant", "content": "red and blue"},
    {"role": "user", "content": "long"},
]


@pytest.fixture
def words():
    made = tiny_text.tokenizer()
    made.chat_template = TEMPLATE
    return made


# Masking ------------------------------------------------------------------------------------------------------------


def test_a_conversation_worked_by_hand(words):
    ids = words.convert_tokens_to_ids
    found = encode(words, segments(words, TWO_TURNS))
    read, first = ["###", "Input", "Name", "one", "colour", "[EOS]", ",", "###", "Response"], ["red", "[EOS]"]
    between = [",", "###", "Input", "Name", "two", "[EOS]", ",", "###", "Response"]
    second = ["red", "and", "blue", "[EOS]"]
    assert found.input_ids == ids(read + first + between + second)
    masked = [IGNORED] * len(read), ids(first), [IGNORED] * len(between), ids(second)
    assert found.labels == [label for part in masked for label in part]
    assert [part.learned for part in segments(words, TWO_TURNS)] == [False, True, False, True]


def test_an_instruction_is_a_conversation_of_one_turn():
    from coursekit.models import load_decoder

    _, tokenizer = load_decoder("smollm2", device="cpu")
    for row in load_instructions()["test"].select(range(12)):
        asked = f"{row['instruction']}\n\n{row['context']}" if row["context"] else row["instruction"]
        talk = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
        one = encode(tokenizer, segments(tokenizer, talk))
        other = encode(
            tokenizer, instruction_segments(tokenizer, row["instruction"], row["context"], row["output"])
        )
        assert one == other
        # The pieces are the tokens of the whole: no token would have spanned two of them.
        whole = tokenizer.apply_chat_template(talk, tokenize=False)
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        assert ids[: len(one.input_ids)] == one.input_ids
        assert (
            tokenizer.decode([label for label in one.labels if label != IGNORED])
            == row["output"] + "<|im_end|>"
        )


def test_an_answer_that_holds_the_end_token_is_learned_to_its_real_end(words):
    talk = [{"role": "user", "content": "Name one"}, {"role": "assistant", "content": "red [EOS] blue"}]
    found = encode(words, segments(words, talk))
    learned = [label for label in found.labels if label != IGNORED]
    assert learned == words.convert_tokens_to_ids(["red", "[EOS]", "blue", "[EOS]"])


def test_the_loss_is_that_of_the_answers_alone(words):
    r"""Against the model's probabilities of the learned tokens, one by one."""
    model = tiny.decoder("llama").eval()
    row = encode(words, segments(words, TWO_TURNS))
    ids, labels = (torch.tensor([x]) for x in row)
    with torch.no_grad():
        p = model(input_ids=ids).logits[0].log_softmax(-1)
        learned = [i for i, label in enumerate(row.labels) if label != IGNORED]
        by_hand = -sum(p[i - 1, row.input_ids[i]] for i in learned) / len(learned)
        assert len(learned) == 6
        torch.testing.assert_close(model(input_ids=ids, labels=labels).loss, by_hand)


def test_what_cannot_be_told_apart_is_an_error(words):
    with pytest.raises(CourseError, match="nothing to learn"):
        segments(words, TWO_TURNS[:1])
    with pytest.raises(CourseError, match="has no chat template"):
        segments(tiny_text.tokenizer(), TWO_TURNS)
    words.chat_template = "{{ messages | length }} {% for m in messages %}{{ m['content'] }} {% endfor %}"
    with pytest.raises(CourseError, match="writes earlier turns otherwise"):
        segments(words, TWO_TURNS)


# Too long -----------------------------------------------------------------------------------------------------------


def test_a_cut_is_reported_and_never_trained_on(words):
    def prepared(*talks, max_length):
        encoded = [encode(words, segments(words, messages)) for messages in talks]
        return prepare_encoded("conversations", {"train": encoded}, words, max_length)

    kept = prepared(TWO_TURNS, max_length=24)
    assert len(kept.data["train"]) == 1 and kept.left_out == ()  # exactly as long as fits
    short = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "red"}]
    with pytest.warns(
        UserWarning, match="1 of 2 .*max_length=23 .*learned tokens from 1 of them .the longest has 24"
    ):
        kept = prepared(TWO_TURNS, short, max_length=23)
    assert kept.left_out == (Cut("train", 0, 24, 1, 6),)
    assert "1 of 6 learned" in str(kept.left_out[0])
    assert [sum(label != IGNORED for label in row) for row in kept.data["train"]["labels"]] == [2]
    with pytest.raises(CourseError, match="no example to train on: the longest has 24"):
        prepared(TWO_TURNS, max_length=23)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=12), st.integers(12, 40))
def test_of_every_example_all_or_nothing_is_learned(answers, max_length):
    words = tiny_text.tokenizer()
    rows = [dict(instruction="Name one", context="", output="red " * n, kind="") for n in (1, *answers)]
    data = DatasetDict(train=Dataset.from_list(rows))
    with pytest.warns(UserWarning) if 8 + max(answers) + 1 > max_length else _nothing():
        prepared = prepare_instructions(data, words, max_length)
    kept = [n for n in (1, *answers) if 8 + n + 1 <= max_length]
    learned = [sum(label != IGNORED for label in row) for row in prepared.data["train"]["labels"]]
    assert learned == [n + 1 for n in kept]
    assert all(row[-1] == words.eos_token_id for row in prepared.data["train"]["labels"])
    assert [cut.learned for cut in prepared.left_out] == [
        n + 1 for n in (1, *answers) if 8 + n + 1 > max_length
    ]


class _nothing:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return False


# Packing ------------------------------------------------------------------------------------------------------------


def test_blocks_worked_by_hand():
    assert blocks([[1, 2, 3], [4], [5, 6]], 4, 0) == [[1, 2, 3, 0], [4, 0, 5, 6]]  # the last end is left over
    assert blocks([[1, 2, 3]], 2, 9) == [[1, 2], [3, 9]]
    assert blocks([[1]], 4, 0) == []
    with pytest.raises(CourseError, match="length must be an integer of at least 2; got 1."):
        blocks([[1]], 1, 0)


@given(st.lists(st.lists(st.integers(1, 9), max_size=9), max_size=9), st.integers(2, 8))
def test_blocks_lose_less_than_one_block_and_change_nothing(rows, length):
    made = blocks(rows, length, 0)
    stream = [token for row in rows for token in [*row, 0]]
    flat = [token for block in made for token in block]
    assert flat == stream[: len(flat)] and len(stream) - len(flat) < length
    assert all(len(block) == length for block in made)


def test_bins_worked_by_hand():
    assert bins([3, 5, 2, 4, 1], 8) == [[1, 0], [3, 2, 4]]
    assert bins([], 8) == []
    with pytest.raises(CourseError, match="a row has 9 tokens, and a bin has 8"):
        bins([3, 9], 8)


@given(st.lists(st.integers(1, 10), max_size=40), st.integers(10, 20))
def test_bins_hold_every_row_once_and_waste_little(lengths, length):
    made = bins(lengths, length)
    assert sorted(i for group in made for i in group) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in group) <= length for group in made)
    fewest = -(-sum(lengths) // length)
    assert len(made) <= 11 / 9 * max(fewest, 1) + 6 / 9 + sum(2 * n > length for n in lengths)


def test_a_packed_row_worked_by_hand():
    words = tiny_text.tokenizer()
    rows = [
        dict(instruction="Name one", context="", output=out, kind="")
        for out in ("red", "blue red", "red blue dark")
    ]
    data = DatasetDict(train=Dataset.from_list(rows))
    plain = prepare_instructions(data, words, 24).data["train"]
    prepared = prepare_instructions(data, words, 24, packed=True)
    packed = prepared.data["train"]
    # 12 and 11 tokens share a row, 10 have the next to themselves.
    assert [len(row) for row in packed["input_ids"]] == [23, 10]
    assert packed[0]["input_ids"] == plain[2]["input_ids"] + plain[1]["input_ids"]
    assert packed[0]["labels"] == plain[2]["labels"] + plain[1]["labels"]
    assert packed[0]["position_ids"] == [*range(12), *range(11)]
    batch = prepared.collate(packed.to_list())
    assert batch["position_ids"].shape == batch["input_ids"].shape == (2, 23)
    assert int(batch["attention_mask"].sum()) == 33
    assert "attention_mask" not in prepared.inputs(batch)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_packed_examples_do_not_see_each_other(family, attention):
    r"""The loss of rows packed together is that of the rows apart, and so are the gradients."""
    words = tiny_text.tokenizer()
    rows = load_toy()
    data = DatasetDict(train=Dataset.from_list(rows))
    apart, packed = (prepare_instructions(data, words, 40, packed=p) for p in (False, True))
    assert len(packed.data["train"]) < len(apart.data["train"]) / 2
    found = []
    for prepared in (apart, packed):
        model = tiny.decoder(family, attn_implementation=attention).eval()
        batch = prepared.collate(prepared.data["train"].to_list())
        loss = model(**prepared.inputs(batch), use_cache=False).loss
        loss.backward()
        found.append(
            (loss, [p.grad for p in model.parameters() if p.grad is not None], prepared.weight(batch))
        )
    (one, gradients, tokens), (other, others, also) = found
    assert tokens == also
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for g, h in zip(gradients, others, strict=True):
        torch.testing.assert_close(g, h, atol=1e-5, rtol=1e-4)


def test_fit_learns_from_packed_rows_as_from_rows_apart():
    words, rows = tiny_text.tokenizer(), load_toy()
    data = DatasetDict(train=Dataset.from_list(rows))
    losses = []
    for packed in (False, True):
        prepared = prepare_instructions(data, words, 40, packed=packed)
        n = len(prepared.data["train"])  # every step sees all examples
        history = fit(tiny.decoder("llama"), prepared, steps=4, batch_size=n, lr=1e-2, progress=False)
        losses.append(history.loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def load_toy():
    return [
        dict(instruction=f"Name {n}", context=c, output=out, kind="")
        for n, c, out in [
            ("one", "", "red"), ("two", "plot", "red blue"), ("one", "a dark story", "dull"),
            ("two", "", "bright short"),
            ("one", "scene", "good"), ("two", "the end", "not bad"), ("one", "", "great"),
        ]
    ]  # fmt: skip


def test_the_held_out_loss_is_that_of_one_large_batch():
    from coursekit.evaluation import answer_loss

    words = tiny_text.tokenizer()
    data = DatasetDict(train=Dataset.from_list(load_toy()))
    model = tiny.decoder("llama").train()
    prepared = prepare_instructions(data, words, 40)
    with torch.no_grad():
        whole = model.eval()(**prepared.collate(prepared.data["train"].to_list())).loss.item()
    model.train()
    for batch_size in (1, 3, 7):
        assert answer_loss(model, prepared, "train", batch_size=batch_size, progress=False) == pytest.approx(
            whole
        )
    packed = prepare_instructions(data, words, 40, packed=True)
    assert answer_loss(model, packed, "train", progress=False) == pytest.approx(whole, rel=1e-5)
    assert model.training
    with pytest.raises(CourseError, match="for an encoder"):
        answer_loss(model, tiny_text.prepared("encoder"))


def test_packed_rows_are_refused_where_their_examples_would_see_each_other():
    from coursekit.methods import PromptTuning
    from coursekit.methods.selective.importance import fisher

    words = tiny_text.tokenizer()
    data = DatasetDict(train=Dataset.from_list(load_toy()))
    packed = prepare_instructions(data, words, 40, packed=True)
    model = tiny.decoder("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(
        CourseError, match="attention='flash_attention_2': load the model with attention='sdpa'"
    ):
        fit(model, packed, steps=1, progress=False)
    with pytest.raises(CourseError, match="PromptTuning puts its tokens in front of a row"):
        fit(PromptTuning(n=2).attach(tiny.decoder("llama")), packed, steps=1, progress=False)
    model = tiny.decoder("llama")
    forward = model.forward
    model.forward = lambda input_ids=None, labels=None, **rest: forward(
        input_ids=input_ids, labels=labels, **rest
    )
    with pytest.raises(CourseError, match="reads no positions"):
        fit(model, packed, steps=1, progress=False)
    batch = packed.collate(packed.data["train"].to_list())
    with pytest.raises(CourseError, match="a packed row holds several examples"):
        fisher(tiny.decoder("llama"), [], [batch], 0)


def test_the_last_end_token_ends_an_answer_that_the_template_trims(words):
    words.chat_template = TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] | trim }}")
    padded = [{"role": "user", "content": "Name one"}, {"role": "assistant", "content": "  red  "}]
    found = encode(words, segments(words, padded))
    assert [label for label in found.labels if label != IGNORED] == words.convert_tokens_to_ids(
        ["red", "[EOS]"]
    )


def test_the_first_token_of_a_packed_example_is_not_learned_from_the_one_before(words):
    r"""Also where everything is learned, as in plain text: it would be predicted from another example's end."""
    rows = [Encoded([5, 6, 7], [5, 6, 7]), Encoded([8, 9], [8, 9])]
    packed = prepare_encoded("x", {"train": rows}, words, 8, packed=True).data["train"]
    assert packed[0]["input_ids"] == [5, 6, 7, 8, 9] and packed[0]["position_ids"] == [0, 1, 2, 0, 1]
    assert packed[0]["labels"] == [IGNORED, 6, 7, IGNORED, 9]


def by_looking_at_every_bin(lengths, length):
    r"""First-fit decreasing as it is defined, in quadratic time."""
    filled, room = [], []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((b for b, free in enumerate(room) if lengths[index] <= free), len(room))
        if place == len(room):
            filled.append([])
            room.append(length)
        filled[place].append(index)
        room[place] -= lengths[index]
    return filled


@given(st.integers(2, 40).flatmap(lambda n: st.tuples(st.lists(st.integers(0, n), max_size=60), st.just(n))))
def test_bins_are_those_of_first_fit_decreasing(case):
    assert bins(*case) == by_looking_at_every_bin(*case)


def test_many_rows_do_not_take_many_looks():
    r"""20,000 rows in nearly as many bins: 2·10⁸ looks one by one."""
    lengths = [50 + i % 50 for i in range(20_000)]
    start = time.process_time()
    found = bins(lengths, 100)
    assert time.process_time() - start < 5
    assert len(found) == 20_000 - 200 and sum(map(len, found)) == 20_000


def test_no_part_of_a_conversation_gets_the_tokens_that_begin_a_text():
    words = tiny_text.tokenizer()
    plain = encode(words, [Segment("a film", False), Segment("good", True)])
    words._tokenizer.post_processor = TemplateProcessing(single="[EOS] $A", special_tokens=[("[EOS]", 2)])
    assert words("good")["input_ids"][0] == words.eos_token_id, "this tokenizer begins every text with a token"
    assert encode(words, [Segment("a film", False), Segment("good", True)]) == plain

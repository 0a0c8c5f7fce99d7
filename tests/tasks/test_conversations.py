r"""What is learned of a conversation, and what is left out: all against examples by hand."""

from contextlib import nullcontext

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
from coursekit.tasks.conversations import Segment, encode, segments
from coursekit.tasks.instructions import instruction_segments, load_instructions, prepare_instructions

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
        other = encode(tokenizer, instruction_segments(tokenizer, row["instruction"], row["context"], row["output"]))
        assert one == other
        # The pieces are the tokens of the whole: no token would have spanned two of them.
        whole = tokenizer.apply_chat_template(talk, tokenize=False)
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        assert ids[: len(one.input_ids)] == one.input_ids
        assert tokenizer.decode([label for label in one.labels if label != IGNORED]) == row["output"] + "<|im_end|>"


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


@given(st.lists(st.integers(1, 30), min_size=2, max_size=12), st.integers(12, 40))
def test_of_every_example_all_or_nothing_is_learned(answers, max_length):
    words = tiny_text.tokenizer()
    rows = [dict(instruction="Name one", context="", output="red " * n, kind="") for n in (1, *answers)]
    data = DatasetDict(train=Dataset.from_list(rows))
    longest = 8 + max(answers) + 1
    told = f"{sum(8 + n + 1 > max_length for n in answers)} of {len(rows)} examples .*the longest has {longest}"
    with pytest.warns(UserWarning, match=told) if longest > max_length else nullcontext():
        prepared = prepare_instructions(data, words, max_length)
    kept = [n for n in (1, *answers) if 8 + n + 1 <= max_length]
    learned = [sum(label != IGNORED for label in row) for row in prepared.data["train"]["labels"]]
    assert learned == [n + 1 for n in kept]
    assert all(row[-1] == words.eos_token_id for row in prepared.data["train"]["labels"])


def test_where_every_example_is_too_long_there_is_an_error():
    rows = Dataset.from_list([dict(instruction="Name one", context="", output="red", kind="")])
    with pytest.raises(CourseError, match="max_length=9 leaves no example to train on: the longest has 10 tokens"):
        prepare_instructions(DatasetDict(train=rows), tiny_text.tokenizer(), 9)


def test_the_last_end_token_ends_an_answer_that_the_template_trims(words):
    words.chat_template = TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] | trim }}")
    padded = [{"role": "user", "content": "Name one"}, {"role": "assistant", "content": "  red  "}]
    found = encode(words, segments(words, padded))
    assert [label for label in found.labels if label != IGNORED] == words.convert_tokens_to_ids(["red", "[EOS]"])


def test_no_part_of_a_conversation_gets_the_tokens_that_begin_a_text():
    words = tiny_text.tokenizer()
    plain = encode(words, [Segment("a film", False), Segment("good", True)])
    words._tokenizer.post_processor = TemplateProcessing(single="[EOS] $A", special_tokens=[("[EOS]", 2)])
    assert words("good")["input_ids"][0] == words.eos_token_id, "this tokenizer begins every text with a token"
    assert encode(words, [Segment("a film", False), Segment("good", True)]) == plain

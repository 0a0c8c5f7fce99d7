r"""Examples in the prompt: what they cost, and that they leave nothing behind."""

import pytest
import tiny
import tiny_text
import torch

from coursekit.errors import CourseError
from coursekit.evaluation import accuracy
from coursekit.evaluation.in_context import ask, prompt_examples, prompt_tokens
from coursekit.fingerprint import fingerprint
from coursekit.tasks import load_task


@pytest.fixture(scope="module")
def prepared():
    return load_task("film", "two").for_decoder(tiny_text.tokenizer(), max_length=64)


def test_tokens_are_those_of_the_prompts(prepared):
    task, texts = prepared.task, prepared.task.data["test"][:5]["text"]
    for shots in (0, 3):
        prompts = [prepared.tokenizer(task.prompt(t, task.shots(shots)))["input_ids"] for t in texts]
        by_hand = sum(map(len, prompts)) / 5
        assert prompt_tokens(prepared, shots, limit=5) == by_hand
    assert prompt_tokens(prepared, 3, limit=5) > 2 * prompt_tokens(prepared, 0, limit=5)
    with pytest.raises(CourseError, match="no prompts for a decoder"):
        prompt_tokens(tiny_text.prepared("decoder"))


def test_the_examples_of_a_prompt_can_be_trained_on(prepared):
    task, rows = prepared.task, prompt_examples(prepared, 4)
    train = task.data["train"][:]
    places = [train["text"].index(text) for text, _ in task.shots(4)]
    assert [task.labels[train["label"][place]] for place in places] == [word for _, word in task.shots(4)]
    assert rows.data["train"].to_list() == prepared.data["train"].select(places).to_list()
    assert rows.data["test"] is prepared.data["test"] and rows.task is task
    with pytest.raises(CourseError, match="k"):
        prompt_examples(prepared, 0)
    with pytest.raises(CourseError, match="before take"):
        prompt_examples(prepared.take(9), 2)
    with pytest.raises(CourseError, match="no prompts for a decoder"):
        prompt_examples(tiny_text.prepared("decoder"), 2)


def test_asking_changes_nothing_in_the_model(prepared):
    model = tiny.decoder("llama", max_position_embeddings=512)
    before = fingerprint(model.state_dict())
    found = ask(model, prepared, shots=2, limit=6, timed=2)
    assert fingerprint(model.state_dict()) == before
    assert found.seconds > 0 and found.shots == 2
    assert torch.equal(found.score.correct, accuracy(model, prepared, limit=6, shots=2, progress=False).correct)


def test_a_fingerprint_sees_one_bit_and_one_name():
    model = tiny.decoder("llama")
    before = fingerprint(model.state_dict())
    assert before == fingerprint(tiny.decoder("llama").state_dict()) and len(before) == 8
    tensors = dict(model.state_dict())
    first = next(iter(tensors))
    flipped = tensors[first].clone()
    flipped.view(-1)[3] = torch.nextafter(flipped.view(-1)[3], torch.tensor(10.0))
    assert fingerprint(tensors | {first: flipped}) != before
    swapped = tensors[first][[1, 0, *range(2, len(tensors[first]))]]
    assert fingerprint(tensors | {first: swapped}) != before
    assert fingerprint({f"{name}!": t for name, t in tensors.items()}) != before
    assert fingerprint(model.bfloat16().state_dict()) != before

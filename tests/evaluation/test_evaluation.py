r"""Scores against closed forms, and every shortcut (cache, batches, padding) against the long way round."""

import inspect
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import tiny
import tiny_text
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from coursekit import tasks
from coursekit.errors import CourseError
from coursekit.evaluation import accuracy, answer_nats, best_constant, generate, score_choices, wilson
from coursekit.evaluation.perplexity_of_texts import nats_by_text
from coursekit.evaluation.running import similar_lengths
from coursekit.evaluation.scores import Score, pairs_in_order

TEXTS = ["the plot is good", "dull", "a slow and long story of the actor", "bright scene", "not fine , not bad"] * 3
LONGER = [text for text in TEXTS if text != "dull"]  # has one token, with nothing before it
QUIET = dict(progress=False)


@pytest.fixture(scope="module")
def words():
    return tiny_text.tokenizer()


def film():
    r"""A film task over `TEXTS`, their classes in turn."""
    names = tasks.WORDS["five"]
    labels = [i % len(names) for i in range(len(TEXTS))]
    rows = Dataset.from_dict({"text": TEXTS, "rating": [float(label) for label in labels], "label": labels})
    long = [f"{text} {'and the end of it ' * 2}" for text in TEXTS]
    train = Dataset.from_dict({"text": long, "rating": rows["rating"][:], "label": labels})
    return tasks.Task("film/five", names, DatasetDict(train=train, test=rows))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17, 1998, p. 857–872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_as_published(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_limits_are_where_the_score_test_just_rejects(case):
    successes, n = case
    p = successes / n
    for limit in wilson(successes, n):
        if 0 < limit < 1:
            assert abs(p - limit) / math.sqrt(limit * (1 - limit) / n) == pytest.approx(1.959964, rel=1e-5)
    low, high = wilson(successes, n)
    assert 0 <= low <= p <= high <= 1


def test_score_shows_value_interval_and_count():
    score = Score.of(torch.tensor([True] * 285 + [False] * 115))
    assert repr(score) == "0.713 (0.666–0.755, n=400)"
    assert score.correct.sum() == 285


@pytest.mark.parametrize("family", tiny.DECODERS)
@pytest.mark.parametrize("shots", [0, 3, 5])
def test_shared_prefix_equals_whole_prompts_one_by_one(family, shots, words):
    model, task = (
        tiny.decoder(family, **({"max_position_embeddings": 256} if family != "gpt2" else {"n_positions": 256})),
        film(),
    )
    prepared = task.for_decoder(words)
    choices = [answer[0] for answer in task.answer_ids(words)]
    expected = []
    for row in task.data["test"]:
        ids = words(task.prompt(row["text"], task.shots(shots)), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected.append(model(ids).logits[0, -1, choices])
    prompts = [task.prompt(text, task.shots(shots)) for text in TEXTS]
    for cache in (True, False):
        for batch_size in (1, 64):
            got = score_choices(model, words, prompts, task.labels, batch_size, cache=cache)
            torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=1e-5)
            score = accuracy(model, prepared, shots=shots, batch_size=batch_size, cache=cache, **QUIET)
            right = torch.stack(expected).argmax(-1) == torch.tensor(task.data["test"][:]["label"])
            assert torch.equal(score.correct, right)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_accuracy_is_that_of_the_split_that_was_asked_for(kind, words):
    r"""Splits that differ in texts and classes: what is right in one is wrong in another."""
    texts = {"train": TEXTS[:4], "validation": TEXTS[1:5], "test": TEXTS[2:5]}
    labels = {"train": [0, 1, 1, 0], "validation": [1, 0, 0, 1], "test": [1, 1, 0]}
    splits = {
        split: Dataset.from_dict({"text": rows, "rating": [0.0] * len(rows), "label": labels[split]})
        for split, rows in texts.items()
    }
    task = tasks.Task("film/two", tasks.WORDS["two"], DatasetDict(splits))
    model = tiny.encoder("bert") if kind == "encoder" else tiny.decoder("llama")
    prepared = task.for_encoder(words) if kind == "encoder" else task.for_decoder(words)
    for split, rows in texts.items():
        if kind == "encoder":
            ids = words(rows)["input_ids"]
            logits = [model(torch.tensor([row])).logits[0] for row in ids]
        else:
            choices = [answer[0] for answer in task.answer_ids(words)]
            ids = words([task.prompt(text) for text in rows])["input_ids"]
            logits = [model(torch.tensor([row])).logits[0, -1, choices] for row in ids]
        right = torch.stack(logits).argmax(-1) == torch.tensor(labels[split])
        assert accuracy(model, prepared, split, **QUIET).correct.tolist() == right.tolist()
    assert best_constant(prepared) == 2 / 3 and best_constant(prepared, limit=2) == 1
    assert best_constant(prepared, "train", 3) == 2 / 3
    with pytest.raises(CourseError, match="no constant answer"):
        best_constant(tiny_text.prepared("encoder"))


def test_prefix_is_computed_once(words):
    model, task = tiny.decoder("llama", max_position_embeddings=256), film()
    tokens = []
    model.model.embed_tokens.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0].numel()))
    prompts = [task.prompt(text, task.shots(5)) for text in TEXTS]
    lengths = [len(ids) for ids in words(prompts)["input_ids"]]
    score_choices(model, words, prompts, task.labels, cache=False)
    assert sum(lengths) <= sum(tokens) <= sum(lengths) + 8 * len(lengths)
    tokens.clear()
    score_choices(model, words, prompts, task.labels, cache=True)
    own = [len(ids) for ids in words(TEXTS)["input_ids"]]
    assert sum(tokens) <= max(lengths) + len(own) * (max(own) + 3)


def test_only_the_ends_of_prompts_reach_the_output_layer(words):
    model = tiny.decoder("llama")
    positions = []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: positions.append(inputs[0].shape[1]))
    score_choices(model, words, TEXTS, ["good", "bad"], cache=False)
    own = [len(ids) for ids in words(TEXTS)["input_ids"]]
    assert positions == [max(own) - min(own) + 1]
    positions.clear()
    score_choices(model, words, TEXTS, ["good", "bad"], batch_size=1)
    assert set(positions) == {1}


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 8), st.integers(0, 9))
def test_similar_lengths_are_every_row_once_the_longest_first(lengths, batch_size, spread):
    groups = list(similar_lengths([[0] * n for n in lengths], batch_size, spread))
    found = [i for group in groups for i in group]
    assert sorted(found) == list(range(len(lengths)))
    assert [lengths[i] for i in found] == sorted(lengths, reverse=True)
    assert all(len(g) <= batch_size and lengths[g[0]] - lengths[g[-1]] <= spread for g in groups)
    # As few as can be: the next row would not have fitted.
    for one, after in pairwise(groups):
        assert len(one) == batch_size or lengths[one[0]] - lengths[after[0]] > spread


class Soft(torch.nn.Module):
    r"""A model that puts two vectors of its own before every text, as prompt tuning does."""

    def __init__(self):
        super().__init__()
        self.inner = tiny.decoder("llama")
        self.soft = torch.nn.Parameter(torch.ones(2, tiny.D_MODEL))

    def forward(self, input_ids, **settings):
        embedded = self.inner.get_input_embeddings()(input_ids)
        return self.inner(inputs_embeds=torch.cat([self.soft.expand(len(input_ids), -1, -1), embedded], 1), **settings)


def test_tokens_a_model_adds_itself_are_not_added_twice(words):
    r"""A cache would repeat them between prefix and rest, so none must be used."""
    model, prompts = Soft(), [f"the plot of the film is {word}" for word in ("good", "bad", "not good")]
    scores = (score_choices(model, words, prompts, ["good", "bad"], cache=flag) for flag in (True, False))
    torch.testing.assert_close(*scores)
    ids = words(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        # The last soft vector predicts the first token, which perplexity leaves out.
        likely = model(ids).logits[0, 2:-1].log_softmax(-1).gather(1, ids[0, 1:, None])
    assert nats_by_text(model, words, TEXTS[:1])[0, 0].item() == pytest.approx(-likely.sum().item(), rel=1e-5)


@pytest.mark.parametrize("family", tiny.ENCODERS)
def test_encoder_accuracy_equals_one_by_one(family, words):
    task = film()
    model, prepared = tiny.encoder(family, num_labels=5), task.for_encoder(words)
    with torch.no_grad():
        answers = [model(torch.tensor([ids])).logits.argmax().item() for ids in prepared.data["test"]["input_ids"]]
    right = torch.tensor(answers) == torch.tensor(task.data["test"][:]["label"])
    assert torch.equal(accuracy(model, prepared, batch_size=4, **QUIET).correct, right)
    assert torch.equal(accuracy(model, prepared, limit=7, **QUIET).correct, right[:7])


class Uniform(torch.nn.Module):
    r"""Every next token is equally likely."""

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, **_):
        return SimpleNamespace(logits=self.nothing.expand(*input_ids.shape, tiny.VOCAB))


def test_perplexity_of_a_uniform_model_is_the_vocabulary(words):
    for room in (64, None, -1):  # some configs have -1 for no limit
        model = Uniform()
        model.config = SimpleNamespace(max_position_embeddings=room)
        nats, tokens = nats_by_text(model, words, LONGER).T
        torch.testing.assert_close(nats, tokens * math.log(tiny.VOCAB))


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_nats_are_the_models_own_loss(family, words):
    model = tiny.decoder(family)
    for text, (nats, tokens) in zip(LONGER, nats_by_text(model, words, LONGER).tolist(), strict=True):
        ids = words(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = model(ids, labels=ids).loss.item()
        assert tokens == ids.shape[1] - 1 and nats == pytest.approx(loss * tokens, rel=1e-5)


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_generation_with_left_padding_equals_one_by_one(family, words):
    model = tiny.decoder(family)
    together = generate(model, words, TEXTS, max_new_tokens=6, batch_size=8, **QUIET)
    alone = [generate(model, words, [text], max_new_tokens=6, **QUIET)[0] for text in TEXTS]
    assert together == alone and any(together)
    ids = words(TEXTS[0], return_tensors="pt")["input_ids"]
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    assert words.decode(ids[0, -6:], skip_special_tokens=True).startswith(together[0])


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_as_it_found_it(training, words):
    decoder, encoder = tiny.decoder("llama"), tiny.encoder("bert", num_labels=5)
    for model in (decoder, encoder):
        model.train(training)
        next(model.children()).eval()
    before = [[module.training for module in model.modules()] for model in (decoder, encoder)]
    accuracy(decoder, film().for_decoder(words), **QUIET)
    accuracy(encoder, film().for_encoder(words), **QUIET)
    nats_by_text(decoder, words, LONGER)
    generate(decoder, words, TEXTS[:2], max_new_tokens=2, **QUIET)
    assert [[module.training for module in model.modules()] for model in (decoder, encoder)] == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: accuracy(tiny.encoder("bert"), film().for_encoder(w), shots=2, **QUIET), "an encoder reads one"),
        (lambda w: accuracy(tiny.encoder("bert"), tiny_text.prepared("encoder"), **QUIET), "no classes to count"),
        (lambda w: accuracy(tiny.encoder("bert"), film().for_encoder(w), split="tset"), "did you mean 'test'"),
        (lambda w: accuracy(tiny.encoder("bert"), film().for_encoder(w), limit=0), "limit must be a positive"),
        (lambda w: score_choices(tiny.decoder(), w, TEXTS, ["good", "good not"]), "do not begin with a token each"),
        (lambda w: nats_by_text(tiny.decoder(), w, ["good plot", "dull"]), "nothing to predict"),
        (lambda w: nats_by_text(tiny.decoder(), w, ["plot " * 99]), "reads at most 64: cut it"),
        (lambda w: generate(tiny.decoder(), w, TEXTS, max_new_tokens=0), "max_new_tokens must be a positive integer"),
        (lambda w: accuracy(tiny.decoder(), film().for_decoder(w), shots=None), "shots must be a non-negative integer"),
        (lambda w: accuracy(tiny.decoder(), film().for_decoder(w), batch_size=0), "batch_size must be a positive"),
        (lambda w: accuracy(tiny.encoder("bert"), film().for_encoder(w)), "has 5 classes, and the model has 2"),
        (lambda w: accuracy(tiny.encoder("bert"), film().for_decoder(w)), "was prepared for a decoder"),
        (lambda w: accuracy(tiny.decoder(), film().for_encoder(w)), "was prepared for an encoder"),
        (lambda w: answer_nats(tiny.encoder("bert"), film().for_decoder(w)), "was prepared for a decoder"),
        (lambda w: answer_nats(tiny.decoder(), film().for_encoder(w)), "is for an encoder"),
    ],
)
def test_bad_requests_are_one_clear_line(call, message, words):
    with pytest.raises(CourseError) as error:
        call(words)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_nats_row_by_row_are_those_of_each_row_alone(family, words):
    model, task = tiny.decoder(family), film().for_decoder(words)
    nats = answer_nats(model, task, limit=7, batch_size=3)
    alone = [model(**{k: torch.tensor([v]) for k, v in task.split("test")[i].items()}) for i in range(7)]
    learned = torch.tensor([sum(label != -100 for label in task.split("test")[i]["labels"]) for i in range(7)])
    torch.testing.assert_close(nats, torch.stack([one.loss for one in alone]) * learned, rtol=1e-4, atol=1e-5)


def test_pairs_in_order_need_no_threshold():
    good = torch.tensor([True, False, True, False])
    assert pairs_in_order(torch.tensor([0.9, 0.8, 0.7, 0.1]), good) == 0.75
    assert pairs_in_order(torch.tensor([0.9, 0.8, 0.7, 0.1]) - 5, good) == 0.75
    assert pairs_in_order(torch.zeros(4), good) == 0
    assert pairs_in_order(torch.tensor([1.0, 0.0, 0.0, 0.0]), good) == 0.5
    assert pairs_in_order(torch.tensor([3.0, 0.0, 2.0, 1.0]), good) == 1


@pytest.mark.parametrize("prompts", [["a good film", "a good film"], ["a good", "a good film is"], ["a"] * 3])
def test_a_prompt_that_is_the_beginning_of_all_is_asked_too(prompts):
    model, words = tiny.decoder("llama"), tiny_text.tokenizer()
    cached = score_choices(model, words, prompts, ["good", "bad"])
    assert torch.allclose(cached, score_choices(model, words, prompts, ["good", "bad"], cache=False), atol=1e-5)


def test_samples_are_drawn_where_they_are_asked_for():
    model, words = tiny.decoder("llama"), tiny_text.tokenizer()
    asked = dict(do_sample=True, temperature=5.0, max_new_tokens=8, progress=False)

    def drawn(seed):
        torch.manual_seed(seed)
        return generate(model, words, ["a good film"] * 3, **asked)

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(set(drawn(0))) > 1 == len(set(generate(model, words, ["a good film"] * 3, progress=False)))


@pytest.mark.parametrize(("successes", "n"), [(5, -1), (-1, 5), (6, 5), (2.5, 5)])
def test_a_share_of_no_whole_number_has_no_interval(successes, n):
    with pytest.raises(CourseError, match="must be a"):
        inspect.unwrap(wilson)(successes, n)


ASKED = {
    "generate": lambda model, words, texts: inspect.unwrap(generate)(model, words, texts, progress=False),
    "score_choices": lambda model, words, texts: inspect.unwrap(score_choices)(model, words, texts, ["good", "bad"]),
    "nats_by_text": inspect.unwrap(nats_by_text),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_one_text_a_stranger_s_tokenizer_and_a_model_that_writes_nothing_are_one_clear_line(ask):
    words, model = tiny_text.tokenizer(), tiny.decoder("llama")
    with pytest.raises(CourseError, match="must be a list of texts, such as .*; got 'a good film'"):
        ask(model, words, "a good film")
    with pytest.raises(CourseError, match="tokenizer must be the one that was loaded with the model; got None"):
        ask(model, None, ["a good film"])
    with pytest.raises(CourseError, match="BertForSequenceClassification does not write text"):
        ask(tiny.encoder("bert"), words, ["a good film"])
    words.add_tokens([f"w{i}" for i in range(60)])
    with pytest.raises(CourseError, match="knows tokens below 97: give the tokenizer"):
        ask(model, words, ["a good w59"])

r"""A tokenizer and a model from nothing, and the entropies that the loss is held against."""

import math

import pytest
import torch

from coursekit.errors import CourseError
from coursekit.evaluation.ngrams import Bigram, pairs, unigram_entropy
from coursekit.tasks import load_text
from coursekit.training import fit
from coursekit.training.pretraining import END, adamw, prepare_text, small_decoder, train_tokenizer

TEXTS = load_text("newspaper")["train"]["text"][:300]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


# Counting -----------------------------------------------------------------------------------------------------------


def test_the_entropy_worked_by_hand():
    stream = torch.tensor([0, 1, 0, 1, 0, 2, 0, 2, 0])  # after 0 comes 1 or 2, after these always 0
    share = torch.tensor([5 / 9, 2 / 9, 2 / 9])
    assert unigram_entropy(stream, 3) == pytest.approx(-(share * share.log()).sum().item())
    assert pairs(stream, 3).tolist() == [[0, 2, 2], [2, 0, 0], [2, 0, 0]]


def test_a_table_of_pairs_is_scored_on_a_stream_or_on_blocks():
    stream = torch.randint(0, 9, (2000,), generator=torch.Generator().manual_seed(0))
    model = Bigram(stream, 9, 0.9)
    torch.testing.assert_close(model.table.sum(1), torch.ones(9, dtype=torch.float64))
    other = torch.nn.functional.cross_entropy(model.table.log()[stream[:-1]], stream[1:]).item()
    assert model.loss(stream) == pytest.approx(other)
    blocks = stream.view(-1, 10)
    assert model.loss(blocks) == pytest.approx(sum(map(model.loss, blocks)) / len(blocks))


def test_behind_an_unseen_token_stand_the_single_ones():
    model = Bigram(torch.tensor([0, 1, 0, 1]), 4, 0.9)
    torch.testing.assert_close(model.table[3], model.single)
    torch.testing.assert_close(model.single, torch.tensor([3, 3, 1, 1], dtype=torch.float64) / 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unigram_entropy(torch.tensor([1]), 3), "fewer than two tokens"),
        (lambda: pairs(torch.tensor([1, 5]), 3), "outside of 0 … 2"),
        (lambda: Bigram(torch.tensor([1, 2]), 3, 1.0), "weight=1.0"),
        (lambda: train_tokenizer(TEXTS, 200), "vocab=200: the 256 bytes"),
        (lambda: train_tokenizer(["ab"], 400), "the texts give 25. tokens and not 400"),
        (lambda: small_decoder(300, d_model=30, heads=4), "30 cannot be shared by 4 heads"),
    ],
)
def test_mistakes_are_one_clear_line(call, message):
    with pytest.raises(CourseError, match=message):
        call()


# Tokenizer, text, model ---------------------------------------------------------------------------------------------


def test_every_text_is_read_back_unchanged(tokenizer):
    assert len(tokenizer) == 400
    for text in [*TEXTS[:50], "naïve café – 50 € 🙂", "  two  spaces ", END + " in the middle"]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text and max(ids) < 400
    # What is frequent is short.
    assert len(tokenizer(" the")["input_ids"]) == 1


def test_text_in_blocks_is_the_text(tokenizer):
    prepared = prepare_text({"train": TEXTS}, tokenizer, 32)
    rows = prepared.data["train"]
    assert rows["input_ids"] == rows["labels"] and {len(row) for row in rows["input_ids"]} == {32}
    text = tokenizer.decode([token for row in rows["input_ids"] for token in row])
    whole = "".join(f"{t}{END}" for t in TEXTS)
    assert whole.startswith(text) and len(tokenizer(whole[len(text) :])["input_ids"]) < 32
    with pytest.raises(CourseError, match="less than one block of 32"):
        prepare_text({"train": ["a"]}, tokenizer, 32)
    with pytest.raises(CourseError, match="block must be an integer of at least 2; got 1."):
        prepare_text({"train": TEXTS}, tokenizer, 1)


def test_a_new_model_knows_nothing(tokenizer):
    r"""Its loss is near ln V, and a little above: random weights are not quite without an opinion."""
    prepared = prepare_text({"train": TEXTS}, tokenizer, 32)
    model = small_decoder(400, d_model=64, heads=2, context=32, device="cpu")
    batch = prepared.collate(prepared.data["train"].select(range(32)).to_list())
    with torch.no_grad():
        loss = model(**batch).loss.item()
    assert math.log(400) - 0.1 < loss < math.log(400) + 0.8
    again = small_decoder(400, d_model=64, heads=2, context=32, device="cpu")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    other = small_decoder(400, d_model=64, heads=2, context=32, seed=1, device="cpu")
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)


def test_it_learns_the_frequencies_first(tokenizer):
    prepared = prepare_text({"train": TEXTS}, tokenizer, 32)
    stream = torch.tensor(prepared.data["train"]["input_ids"][:]).flatten()
    model = small_decoder(400, d_model=64, heads=2, context=32, device="cpu")
    history = fit(model, prepared, steps=60, batch_size=8, lr=6e-3, progress=False)
    assert sum(history.loss[-5:]) / 5 < unigram_entropy(stream, 400) < math.log(400)


def test_the_optimizer_has_the_published_settings():
    r"""β₂ = 0.95 and a weight decay of 0.1: Brown et al. 2020, appendix B."""
    (group,) = adamw(3e-3)([torch.nn.Parameter(torch.ones(2))]).param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (3e-3, (0.9, 0.95), 0.1)

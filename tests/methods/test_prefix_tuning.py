r"""Prefix tuning against peft, against the words whose keys and values a prefix can be, and by itself."""

import copy

import peft
import pytest
import tiny
import tiny_text
import torch
from attached import labelled, nonzero, rows_answer_as_alone, train
from cases import lively, texts, writes
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import DynamicCache

from coursekit import methods, tasks
from coursekit.errors import CourseError
from coursekit.evaluation import accuracy, score_choices
from coursekit.evaluation.perplexity_of_texts import nats_by_text
from coursekit.methods import PrefixTuning
from coursekit.methods.soft_prompts.prefix import Prefix
from coursekit.methods.soft_prompts.prefix_attention import shared, with_prefix

KINDS = (*tiny.DECODERS, *tiny.RELATIVES)


# peft -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.ENCODERS)
def test_a_classifier_s_head_and_prefix_come_from_peft_and_go_there(family, tmp_path):
    config = peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="SEQ_CLS")
    theirs = nonzero(peft.get_peft_model(tiny.model(family), config))
    theirs.save_pretrained(tmp_path / "theirs")
    method = PrefixTuning(n=4)
    model = method.load(tiny.model(family), tmp_path / "theirs")
    prefix = theirs.prompt_encoder["default"].embedding.weight
    assert torch.equal(method._tensors(model, "default")["prompt_embeddings"], prefix)
    head = theirs.base_model.classifier.modules_to_save["default"].state_dict()
    own = model.classifier.copies["default"].state_dict()
    assert head and all(torch.equal(own[key], value) for key, value in head.items())

    method.save(nonzero(model, seed=5), tmp_path / "ours")
    read = peft.PeftModel.from_pretrained(tiny.model(family), tmp_path / "ours")
    own = method._tensors(model, "default")["prompt_embeddings"]
    assert torch.equal(read.prompt_encoder["default"].embedding.weight, own)
    head = read.base_model.classifier.modules_to_save["default"].state_dict()
    copied = model.classifier.copies["default"].state_dict()
    assert all(torch.equal(head[key], value) for key, value in copied.items())


@pytest.mark.parametrize("kind", KINDS)
def test_positions_that_the_caller_gives_are_moved_as_peft_moves_them(kind, tmp_path):
    method = PrefixTuning(n=3)
    model = nonzero(method.attach(tiny.model(kind)))
    method.save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny.model(kind), tmp_path).eval()
    one = tiny.batch()
    with torch.no_grad():
        usual = model(**one).logits
        assert torch.equal(model(**one, position_ids=torch.arange(10)[None]).logits, usual)
        elsewhere = model(**one, position_ids=torch.arange(10)[None].expand(3, -1) * 2 + 5).logits
        reference = theirs(**one, position_ids=torch.arange(10)[None].expand(3, -1) * 2 + 5).logits
    assert torch.equal(elsewhere, reference) and not torch.allclose(elsewhere, usual, atol=1e-4)


# transformers: a prefix is a KV cache that is there from the start --------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", tiny.ENCODERS)
def test_an_encoder_answers_as_with_a_filled_cache(family, attention):
    r"""peft's forward() refuses encoders with this transformers; what it means to do is this."""
    method = PrefixTuning(n=3)
    model = nonzero(method.attach(tiny.model(family, attn_implementation=attention)))
    flat = method._tensors(model, "default")["prompt_embeddings"].detach()
    # (n, 2 * layers * d_kv) -> (2 * layers, heads, n, head_dim): keys and values of each block in turn
    both = flat.view(3, 2 * tiny.LAYERS, tiny.HEADS, -1).permute(1, 2, 0, 3)
    one, base = tiny.batch(padded=True), copy.deepcopy(model)
    head = base.classifier.copies["default"]
    method.detach(base)
    cache = DynamicCache([[kv[None].expand(3, -1, -1, -1) for kv in pair] for pair in both.split(2)])
    mask = torch.cat((torch.ones(3, 3, dtype=torch.long), one["attention_mask"]), dim=1)
    body = getattr(base, family)(input_ids=one["input_ids"], attention_mask=mask, cache=cache)
    reference = head(body.pooler_output if family == "bert" else body.last_hidden_state)
    torch.testing.assert_close(model(**one).logits, reference, atol=1e-6, rtol=0)


def begun_as_words(kind: str, words: torch.Tensor, **changes) -> tuple[nn.Module, nn.Module]:
    r"""A model whose prefix is the keys and values of `words`, and the bare model that has to read them."""
    method, plain = PrefixTuning(n=len(words)), tiny.model(kind, **changes)
    plain.generation_config.eos_token_id = None
    model = method.attach(copy.deepcopy(plain))
    with torch.no_grad():
        layers = plain(input_ids=words[None], use_cache=True).cache.layers
    # (1, kv_heads, n, head_dim) -> (n, kv_heads * head_dim), keys before values in each block
    parts = [part[0].transpose(0, 1).flatten(1) for kv in layers for part in (kv.keys, kv.values)]
    method._put(model, "default", torch.cat(parts, dim=1))
    return model, plain


WORDS = torch.tensor([11, 7, 42, 23])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_that_begins_as_words_answers_like_the_words(kind, attention):
    model, plain = begun_as_words(kind, WORDS, attn_implementation=attention)
    ids = tiny.batch()["input_ids"]
    with torch.no_grad():
        expected = plain(input_ids=torch.cat((WORDS.expand(3, -1), ids), dim=1)).logits[:, len(WORDS) :]
        torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-6, rtol=1e-5)
        # in two parts, the first kept in a cache that holds real tokens only
        first = model(input_ids=ids[:, :6], use_cache=True)
        assert first.cache.get_seq_length() == 6
        rest = model(input_ids=ids[:, 6:], cache=first.cache, use_cache=True)
    assert rest.cache is first.cache and rest.cache.get_seq_length() == 10
    torch.testing.assert_close(torch.cat((first.logits, rest.logits), 1), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("settings", [
    {"do_sample": False}, {"num_beams": 3, "do_sample": False}, {"do_sample": False, "use_cache": False},
    {"do_sample": False, "cache_implementation": "static"}, {"num_beams": 2, "num_return_sequences": 2},
    {"prompt_lookup_num_tokens": 2, "do_sample": False},
], ids=["greedy", "beams", "no cache", "static cache", "two sequences", "guessing ahead"])  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_generating_behind_a_prefix_equals_generating_behind_its_words(kind, settings):
    model, plain = begun_as_words(kind, WORDS, **lively(kind))
    ids = tiny.batch(1 if "prompt_lookup_num_tokens" in settings else 3, 6)["input_ids"]
    mask = torch.ones_like(ids)
    behind = torch.cat((WORDS.expand(len(ids), -1), ids), dim=1)
    settings = {"max_new_tokens": 7, "pad_token_id": 1, "do_sample": False} | settings
    ours = model.generate(input_ids=ids, attention_mask=mask, **settings)[:, 6:]
    theirs = plain.generate(input_ids=behind, attention_mask=torch.ones_like(behind), **settings)[:, 10:]
    assert ours.tolist() == theirs.tolist()
    bare = plain.generate(input_ids=ids, attention_mask=mask, **settings)[:, 6:]
    assert bare.tolist() != ours.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_behind_a_prefix_equals_evaluation_behind_its_words(kind):
    words = tiny_text.tokenizer()
    model, plain = begun_as_words(kind, WORDS, **lively(kind))
    texts = ["the plot is good", "a slow and long story of the actor", "not fine , not bad"]
    for text, ours in zip(texts, nats_by_text(model, words, texts)[:, 0].tolist(), strict=True):
        ids = torch.tensor([WORDS.tolist() + words(text)["input_ids"]])
        logits = plain(input_ids=ids).logits[0, len(WORDS) : -1]
        own = nn.functional.cross_entropy(logits, ids[0, len(WORDS) + 1 :], reduction="sum").item()
        assert ours == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_accuracy_with_the_shared_beginning_of_all_prompts_equals_accuracy_without(family):
    words, rows = tiny_text.tokenizer(), ["the plot is good", "dull", "not fine , not bad"] * 3
    rows = Dataset.from_dict({"text": rows, "rating": [0.0] * 9, "label": [i % 5 for i in range(9)]})
    task = tasks.Task("film", tasks.WORDS["five"], DatasetDict(train=rows, test=rows))
    room = {"n_positions": 128} if family == "gpt2" else {"max_position_embeddings": 128}
    model = nonzero(PrefixTuning(n=3).attach(tiny.model(family, **lively(family), **room)))
    prepared = task.for_decoder(words, max_length=64)
    scores = [accuracy(model, prepared, cache=cache, progress=False) for cache in (True, False)]
    assert torch.equal(scores[0].correct, scores[1].correct) and scores[0].n == 9
    prompts, choices = ["the plot is good", "the plot is dull", "the plot is a story"], ["good", "bad"]
    ways = [score_choices(model, words, prompts, choices, cache=cache) for cache in (True, False)]
    torch.testing.assert_close(*ways, atol=1e-5, rtol=1e-5)
    with methods.disabled(model):
        bare = score_choices(model, words, prompts, choices)
    assert not torch.allclose(bare, ways[0], atol=1e-3)


# masks and positions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_mask_that_the_caller_gives_is_kept(kind):
    model = nonzero(PrefixTuning(n=3).attach(tiny.model(kind)))
    ids, positions = tiny.batch()["input_ids"], torch.arange(10).expand(3, -1)
    causal = torch.ones(10, 10, dtype=torch.bool).tril().expand(3, 1, -1, -1)
    with torch.no_grad():
        usual = model(input_ids=ids, position_ids=positions).logits
        given = model(input_ids=ids, attention_mask=causal, position_ids=positions).logits
        torch.testing.assert_close(given, usual, atol=1e-6, rtol=1e-5)
        blind = causal.clone()
        blind[:, :, 5:, :5] = False  # the second half does not look back at the first ...
        cut = model(input_ids=ids, attention_mask=blind, position_ids=positions).logits[:, 5:]
        alone = model(input_ids=ids[:, 5:], position_ids=positions[:, 5:]).logits  # ... so it might as well be alone
    torch.testing.assert_close(cut, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", *tiny.RELATIVES])
def test_texts_packed_into_one_row_each_stand_behind_the_prefix(kind):
    model = nonzero(PrefixTuning(n=3).attach(tiny.model(kind)))
    ids = tiny.batch(1)["input_ids"]
    packed = torch.cat((torch.arange(6), torch.arange(4)))[None]
    with torch.no_grad():
        together = model(input_ids=ids, position_ids=packed, use_cache=False).logits
        parts = [model(input_ids=part).logits for part in (ids[:, :6], ids[:, 6:])]
    torch.testing.assert_close(together, torch.cat(parts, 1), atol=1e-6, rtol=1e-5)


def test_masks_of_every_implementation_get_columns_in_front():
    tokens, n, inf = torch.zeros(2, 3, 4), 2, float("-inf")
    shown = torch.tensor([[True, True], [False, True]])
    # None: nothing to hide, unless the attention would make a causal mask of its own, or rows see different prefixes
    assert with_prefix(None, n, tokens, 3, "sdpa", causal=False) is None
    assert with_prefix(None, n, tokens, 3, "flash_attention_2", causal=False) is None
    made = with_prefix(None, n, tokens, 3, "sdpa", causal=True)
    expected = torch.tensor([[0, 0, 0, inf, inf], [0, 0, 0, 0, inf], [0, 0, 0, 0, 0]])
    assert torch.equal(made, expected[None, None])
    ragged = with_prefix(None, shown, tokens, 3, "sdpa", causal=False)
    assert torch.equal(ragged[:, 0, 0], torch.tensor([[0, 0, 0, 0, 0], [inf, 0, 0, 0, 0]]))
    flash = with_prefix(None, shown, tokens, 3, "flash_attention_2", causal=False)
    assert flash.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]
    # two dimensions: what is padding
    padding = torch.tensor([[0, 1, 1], [1, 1, 1]])
    made = with_prefix(padding, shown, tokens, 3, "flash_attention_2", causal=False)
    assert made.tolist() == [[1, 1, 0, 1, 1], [0, 1, 1, 1, 1]] and made.dtype == padding.dtype
    # of booleans: added to the scores from here on
    look = torch.tensor([[[[True, False], [True, True]]]])
    made = with_prefix(look, n, torch.zeros(3, 2, 4), 2, "sdpa", causal=False)
    assert torch.equal(made, torch.tensor([[[[0, 0, 0, inf], [0, 0, 0, 0]]]])) and made.dtype == torch.float32
    # added to the scores
    added = torch.full((2, 1, 3, 3), -5.0)
    made = with_prefix(added, n, tokens, 3, "eager", causal=False)
    assert torch.equal(made[..., :2], torch.zeros(2, 1, 3, 2)) and torch.equal(made[..., 2:], added)
    with pytest.raises(CourseError, match="'flex_attention' .*attn_implementation='sdpa'"):
        with_prefix(object(), n, tokens, 3, "flex_attention", causal=False)


def test_one_mask_serves_all_blocks_until_something_changes():
    anchor, made = torch.zeros(3), []

    def make():
        made.append(object())
        return made[-1]

    assert shared(anchor, (1,), make) is shared(anchor, (1,), make) is made[0]
    assert shared(anchor, (2,), make) is made[1]
    anchor += 1  # written in place: another mask now
    assert shared(anchor, (2,), make) is made[2]
    assert shared(None, (2,), make) is made[3] and shared(None, (2,), make) is made[4]
    with torch.inference_mode():
        assert shared(torch.zeros(3), (1,), make) is made[5]


def test_the_same_mask_tensor_can_be_used_for_different_prefixes():
    ids, mask = tiny.batch()["input_ids"], torch.ones(10, 10, dtype=torch.bool).tril().expand(3, 1, -1, -1)
    alone = {}
    for n in (2, 5):
        one = nonzero(PrefixTuning(n=n).attach(tiny.model("llama")), seed=n)
        alone[n] = one(input_ids=ids, attention_mask=mask.clone()).logits
    model = tiny.model("llama")
    for n in (2, 5):
        nonzero(PrefixTuning(n=n).attach(model, f"n{n}"), seed=n)
    for n in (2, 5, 2):
        methods.activate(model, f"n{n}")
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, alone[n])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_rows_with_prefixes_of_different_lengths_answer_as_alone(family):
    model, lengths = tiny.model(family), {"short": 2, "long": 7}
    for seed, (name, n) in enumerate(lengths.items()):
        nonzero(PrefixTuning(n=n).attach(model, name), seed)
    padded = tiny.batch(4, padded=True)
    for one in (padded, {"input_ids": padded["input_ids"]}):
        rows_answer_as_alone(model, ["long", None, "short", "long"], one)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", tiny.DECODERS)
def test_one_padded_generation_serves_prefixes_of_different_lengths(family, attention):
    model = tiny.model(family, **lively(family), attn_implementation=attention)
    for seed, (name, n) in enumerate({"short": 2, "long": 7}.items()):
        nonzero(PrefixTuning(n=n).attach(model, name), seed)
    writes(model, texts(8, 7, 6, 5), ["long", None, "short", "long"], new=6)


@pytest.mark.parametrize("family", ["gpt2", "opt", "bert", "roberta"])
def test_when_positions_run_out_the_message_says_how_long_a_text_may_be(family):
    model, longest = PrefixTuning(n=20).attach(tiny.model(family)), tiny.POSITIONS - 20
    ids = torch.full((1, longest), 7)
    assert torch.isfinite(model(input_ids=ids).logits).all()
    with pytest.raises(CourseError, match=f"more positions than the 64 .* shorten the texts to {longest}"):
        model(input_ids=torch.full((1, longest + 1), 7))


# the network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_network_is_thrown_away_and_the_prefix_stays(family, tmp_path):
    method, one = PrefixTuning(n=3, hidden=8), labelled(family)
    model = nonzero(method.attach(tiny.model(family)))
    before = model(**one).logits
    method.save(model, tmp_path)
    method.load(model, tmp_path)  # over the one that is there
    assert torch.equal(model(**one).logits, before)
    heads = sum(p.numel() for n, p in model.named_parameters() if ".copies." in n)
    assert methods.trainable(model) == PrefixTuning(n=3).count(model.config) + heads
    losses = train(model, [one] * 5, lr=1e-2)
    assert losses[-1] < losses[0]
    method.save(model, tmp_path / "again")
    again = method.load(tiny.model(family), tmp_path / "again")
    assert torch.equal(again(**one).logits, model(**one).logits)


def test_a_copied_network_is_one_network_in_all_blocks():
    model = copy.deepcopy(PrefixTuning(n=3, hidden=8).attach(tiny.model("llama")))
    prefixes = [m for m in model.modules() if isinstance(m, Prefix)]
    assert len(prefixes) == tiny.LAYERS and len({id(prefix.network) for prefix in prefixes}) == 1
    assert methods.trainable(model) == PrefixTuning(n=3, hidden=8).count(model.config)

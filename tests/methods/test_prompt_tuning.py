r"""Prompt tuning against peft with the same vectors, and the promise that no caller ever meets a virtual token."""

import copy
import pickle

import families
import peft
import pytest
import tiny
import torch
from attached import labelled, nonzero, rows_answer_as_alone
from cases import left_padded, lively, texts, writes
from tiny_text import tokenizer
from torch import nn
from transformers import BertLMHeadModel, DynamicCache

from coursekit import evaluation, methods
from coursekit.errors import CourseError
from coursekit.evaluation.perplexity_of_texts import nats_by_text
from coursekit.methods import PromptTuning
from coursekit.methods.mechanism.modules import head_names
from coursekit.methods.soft_prompts.prompted_cache import HELD

N = 4
FAMILIES = tiny.FAMILIES
each = pytest.mark.parametrize("family", FAMILIES)
each_decoder = pytest.mark.parametrize("family", tiny.DECODERS)


def prompted(family: str, n: int = N, seed: int = 3, **changes) -> nn.Module:
    return nonzero(PromptTuning(n=n).attach(tiny.model(family, **changes)), seed)


def mixed(family: str, **changes) -> nn.Module:
    r"""A model with prompts of 2 and of 5 vectors, "film" and "product"."""
    model = tiny.model(family, **changes)
    for seed, (name, n) in enumerate((("film", 2), ("product", 5))):
        nonzero(PromptTuning(n=n).attach(model, name), seed)
    return model


def as_peft(model: nn.Module, family: str, **changes) -> nn.Module:
    r"""peft's model, trainable, with the vectors and the head of ours."""
    config = peft.PromptTuningConfig(task_type=task(family), num_virtual_tokens=N)
    theirs = peft.get_peft_model(tiny.model(family, **changes), config)
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.copy_(model.soft_prompt.vectors("default"))
        for head in head_names(model):
            copy = theirs.base_model.get_submodule(head).modules_to_save["default"]
            copy.load_state_dict(model.get_submodule(head).copies["default"].state_dict())
    return theirs.eval()


def task(family: str) -> str:
    return "SEQ_CLS" if family in tiny.ENCODERS else "CAUSAL_LM"


# peft -----------------------------------------------------------------------------------------------------


def test_one_seed_gives_peft_s_random_start():
    torch.manual_seed(0)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=N, prompt_tuning_init="RANDOM")
    reference = peft.get_peft_model(tiny.model("llama"), config).prompt_encoder["default"].embedding.weight
    torch.manual_seed(0)
    model = PromptTuning(n=N, init="random").attach(tiny.model("llama"))
    assert torch.equal(model.soft_prompt.vectors("default"), reference)


@each
def test_a_start_from_the_vocabulary_is_words_and_one_seed_gives_it_again(family):
    starts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = PromptTuning(n=N).attach(tiny.model(family))
        starts.append(model.soft_prompt.vectors("default"))
        words = model.get_input_embeddings().weight
        assert (starts[-1][:, None] == words).all(-1).any(-1).all()
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("n", [3, 8])
def test_a_text_as_start_is_cut_or_repeated_as_in_peft(n, tmp_path):
    words = tokenizer()
    words.save_pretrained(tmp_path)
    text = "Grade the film review :"
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=n, prompt_tuning_init="TEXT", prompt_tuning_init_text=text,
        tokenizer_name_or_path=str(tmp_path),
    )  # fmt: skip
    reference = peft.get_peft_model(tiny.model("llama"), config).prompt_encoder["default"].embedding.weight
    method = PromptTuning(n=n, init="text", init_ids=words(text)["input_ids"])
    model = method.attach(tiny.model("llama"))
    assert torch.equal(model.soft_prompt.vectors("default"), reference)
    method.save(model, tmp_path / "saved")
    theirs = peft.PeftModel.from_pretrained(tiny.model("llama"), tmp_path / "saved")
    assert torch.equal(theirs.prompt_encoder["default"].embedding.weight, reference)


@each_decoder
def test_padding_on_the_left_changes_nothing_here_but_does_in_peft(family):
    r"""peft counts positions through the padding between its prompt and the text, so a row's answer depends on it.

    OPT is the exception: that model counts its positions from the mask itself.
    """
    model, rows = prompted(family, **lively(family)), texts(9, 5, 7)
    theirs = as_peft(model, family, **lively(family))
    with torch.no_grad():
        ours, reference = model(**left_padded(rows)).logits[:, -1], theirs(**left_padded(rows)).logits[:, -1]
        for row, ids in enumerate(rows):
            alone = model(input_ids=torch.tensor([ids])).logits[0, -1]
            torch.testing.assert_close(ours[row], alone, atol=1e-5, rtol=1e-5)
            same = torch.allclose(reference[row], alone, atol=1e-5, rtol=1e-5)
            assert same == (len(ids) == 9 or family == "opt")


# nobody meets a virtual token -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*FAMILIES, "bert with two types of token", "bert with masks to fill"])
def test_a_prompt_of_words_answers_like_the_words(kind):
    r"""Vectors taken from the vocabulary are those words, so the words in front of the text must give the same."""
    (family, _, what), words, one = kind.partition(" with "), [7, 40, 11], tiny.batch(3)
    method, build = PromptTuning(n=3, init="text", init_ids=words), tiny.masked if "masks" in what else tiny.model
    model, longer = method.attach(build(family)), torch.cat([torch.tensor([words] * 3), one["input_ids"]], dim=1)
    types = torch.tensor([[0] * 7 + [1] * 6] * 3) if "types" in what else None
    with torch.no_grad():
        ours = model(**one, **({} if types is None else {"token_type_ids": types[:, 3:]})).logits
        reference = build(family)(input_ids=longer, **({} if types is None else {"token_type_ids": types})).logits
        assert types is None or not torch.allclose(ours, model(**one).logits, atol=1e-5)
    torch.testing.assert_close(ours, reference[:, 3:] if ours.dim() == 3 else reference, atol=1e-6, rtol=1e-5)


@each
def test_every_way_to_call_it_gives_the_same(family):
    model, one = prompted(family), tiny.batch(3)
    ids, mask = one["input_ids"], one["attention_mask"]
    with torch.no_grad():
        expected = model(**one).logits
        start = 2 if family == "roberta" else 0
        at = torch.arange(start, start + ids.shape[1])
        calls = [
            {"input_ids": ids},
            {"input_ids": ids, "position_ids": at[None]},
            {"input_ids": ids, "attention_mask": mask, "position_ids": at.expand(3, -1)},
            {"inputs_embeds": model.get_input_embeddings()(ids), "attention_mask": mask},
        ]
        if family in tiny.ENCODERS:
            calls.append({"input_ids": ids, "token_type_ids": torch.zeros_like(ids)})
        for call in calls:
            torch.testing.assert_close(model(**call).logits, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(model(**one, return_dict=False)[0], expected, atol=1e-6, rtol=1e-5)


@each
def test_hidden_states_and_attentions_have_one_place_for_each_token(family):
    model, one = prompted(family, attn_implementation="eager"), tiny.batch(2, 7)
    body = model.base_model
    with torch.no_grad():
        done = body(**one, output_hidden_states=True, output_attentions=True)
    assert {h.shape for h in done.hidden_states} == {(2, 7, tiny.D_MODEL)}
    assert {a.shape for a in done.attentions} == {(2, tiny.HEADS, 7, 7 + N)}
    whole = N if family in tiny.ENCODERS else 0  # a sequence classifier's head reads position 0 itself
    assert done.last_hidden_state.shape == (2, 7 + whole, tiny.D_MODEL)
    assert torch.equal(done.last_hidden_state[:, whole:], done.hidden_states[-1])


def test_an_encoder_with_a_language_model_on_top_has_one_loss_for_each_token_but_the_first():
    model = BertLMHeadModel(tiny.config("bert")).eval()
    one = nonzero(PromptTuning(n=N).attach(model)) and labelled("gpt2")
    done = model(**one)
    assert done.logits.shape[:2] == one["input_ids"].shape
    after = one["labels"][:, 1:].flatten()
    torch.testing.assert_close(done.loss, nn.functional.cross_entropy(done.logits[:, :-1].flatten(0, 1), after))


@each_decoder
def test_only_some_logits(family):
    model, one = prompted(family), tiny.batch(2, 7)
    with torch.no_grad():
        every = model(**one).logits
        torch.testing.assert_close(model(**one, logits_to_keep=2).logits, every[:, -2:], atol=1e-6, rtol=1e-5)
        some = model(**one, logits_to_keep=torch.tensor([0, 3])).logits
        torch.testing.assert_close(some, every[:, [0, 3]], atol=1e-6, rtol=1e-5)
        assert model(**one, logits_to_keep=0).logits.shape == every.shape
        loss, logits = model(**one, labels=one["input_ids"], return_dict=False)[:2]
        assert loss.dim() == 0 and logits.shape == every.shape


@each_decoder
def test_the_output_layer_computes_nothing_for_virtual_tokens(family):
    model, one, widths = prompted(family), tiny.batch(2, 7), []
    model.lm_head.register_forward_hook(lambda m, args, out: widths.append(args[0].shape[1]))
    with torch.no_grad():
        model(**one)
        model(**one, labels=one["input_ids"])
    assert widths == [7, 8]  # with labels also the last virtual token's, which predicts the first token


@each_decoder
def test_a_decoder_with_a_classifier_reads_the_last_real_token(family):
    model = nonzero(PromptTuning(n=N).attach(tiny.encoder(family, pad_token_id=1)))
    one = tiny.batch(3, padded=True)
    with torch.no_grad():
        padded = model(**one).logits
        for row, length in enumerate(one["attention_mask"].sum(1).tolist()):
            alone = model(input_ids=one["input_ids"][row : row + 1, :length]).logits[0]
            torch.testing.assert_close(padded[row], alone, atol=1e-5, rtol=1e-4)


def test_an_embedding_narrower_than_the_model():
    r"""OPT-350M embeds in 512 and projects to 1024: a virtual token is as wide as a word."""
    narrow = tiny.decoder("opt", word_embed_proj_dim=16)
    model = nonzero(PromptTuning(n=N).attach(narrow))
    assert methods.trainable(model) == PromptTuning(n=N).count(narrow.config) == N * 16
    assert model(**tiny.batch(2, 7)).logits.shape == (2, 7, tiny.VOCAB)


# rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@each
def test_rows_with_prompts_of_different_lengths(family, padded):
    model, one = mixed(family, **lively(family) if family in tiny.DECODERS else {}), tiny.batch(4, padded=padded)
    names = ["product", "film", None, "product"]
    together = rows_answer_as_alone(model, names, one)
    if not padded:
        with torch.no_grad(), methods.mixed_batch(model, names):
            torch.testing.assert_close(model(input_ids=one["input_ids"]).logits, together, atol=1e-6, rtol=1e-5)


@each
def test_hidden_states_of_rows_with_prompts_of_different_lengths(family):
    model, one, names = (mixed(family, attn_implementation="eager"), tiny.batch(3, 7), ["product", "film", None])
    outputs = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        with methods.mixed_batch(model, names):
            together = model.base_model(**one, **outputs)
        for row, name in enumerate(names):
            alone = methods.activate(model, name).base_model(**one, **outputs)
            for ours, reference in zip(together.hidden_states, alone.hidden_states, strict=True):
                torch.testing.assert_close(ours[row], reference[row], atol=1e-5, rtol=1e-4)
            assert together.attentions[0].shape[1:] == (tiny.HEADS, 7, 12)


@each_decoder
def test_the_loss_of_mixed_rows_is_that_of_each_row(family):
    r"""The first token counts where a virtual token predicts it, and not in a row without any."""
    model, one, names = mixed(family), tiny.batch(3, 7), ["product", None, "film"]
    with torch.no_grad():
        with methods.mixed_batch(model, names):
            together = model(**one, labels=one["input_ids"]).loss
        total = tokens = 0
        for row, name in enumerate(names):
            ids = one["input_ids"][row : row + 1]
            count = 7 if name else 6
            total += methods.activate(model, name)(input_ids=ids, labels=ids).loss * count
            tokens += count
    torch.testing.assert_close(together, total / tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])
@each_decoder
def test_one_generation_with_prompts_of_different_lengths_and_padding(family, cache):
    writes(mixed(family, **lively(family)), texts(9, 5, 7), ["film", None, "product"], use_cache=cache)


# the cache ------------------------------------------------------------------------------------------------


@each_decoder
def test_a_cache_is_continued_as_it_was_begun(family):
    r"""Whoever speaks by now: the keys and values of the prompt are in there, or they are not."""
    model, ids = mixed(family), tiny.batch(1, 8)["input_ids"]
    with torch.no_grad():
        for name in ("film", "product", None):
            whole = methods.activate(model, name)(input_ids=ids).logits[:, 5:]
            for later in ("film", None):
                for mask in (None, torch.ones(1, 8, dtype=torch.long)):
                    methods.activate(model, name)
                    cache = model(input_ids=ids[:, :5], use_cache=True).cache
                    methods.activate(model, later)
                    rest = model(input_ids=ids[:, 5:], attention_mask=mask, cache=cache, use_cache=True)
                    torch.testing.assert_close(rest.logits, whole, atol=1e-5, rtol=1e-4)
                    held = rest.cache.layers[0].get_seq_length()
                    assert held == 8 + {"film": 2, "product": 5, None: 0}[name]
                    assert rest.cache.get_seq_length() == 8


@each_decoder
def test_a_cache_tells_the_length_of_the_text_and_can_be_emptied(family):
    model, ids = prompted(family), tiny.batch(2, 12)["input_ids"]
    with torch.no_grad():
        whole, cache = model(input_ids=ids).logits, DynamicCache()
        model(input_ids=ids[:, :5], cache=cache, use_cache=True)
        assert cache.get_seq_length() == 5 and getattr(cache, HELD).tolist() == [[1] * N]
        for twin in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
            at = torch.arange(5, 12)[None]  # as the caller counts
            rest = model(input_ids=ids[:, 5:], position_ids=at, cache=twin, use_cache=True).logits
            torch.testing.assert_close(rest, whole[:, 5:], atol=1e-5, rtol=1e-4)
            assert (twin.get_seq_length(), cache.get_seq_length()) == (12, 5)
        cache.reset()
        assert cache.get_seq_length() == 0
        with methods.disabled(model):  # who begins it anew need not be who began it before
            model(input_ids=ids[:, :5], cache=cache, use_cache=True)
            rest = model(input_ids=ids[:, 5:], cache=cache, use_cache=True).logits
            torch.testing.assert_close(rest, model(input_ids=ids).logits[:, 5:], atol=1e-5, rtol=1e-4)


@each_decoder
def test_labels_with_a_cache(family):
    model, ids = prompted(family), tiny.batch(2, 8)["input_ids"]
    with torch.no_grad():
        cache = model(input_ids=ids[:, :5], use_cache=True).cache
        ours = model(input_ids=ids[:, 5:], labels=ids[:, 5:], cache=cache, use_cache=True)
        likely = model(input_ids=ids).logits[:, 5:-1].log_softmax(-1)
    expected = -likely.gather(2, ids[:, 6:, None]).mean()
    torch.testing.assert_close(ours.loss, expected, atol=1e-5, rtol=1e-5)


def test_what_all_prompts_begin_with_is_computed_once():
    words = tokenizer()
    model = nonzero(PromptTuning(n=N).attach(tiny.decoder("llama")))
    prompts = [f"Grade each film review : {end} ." for end in ("good plot", "bad story end", "dull")]
    computed = []
    model.model.layers[0].register_forward_pre_hook(lambda m, args: computed.append(args[0].shape[:2]))
    shared = evaluation.score_choices(model, words, prompts, ["good", "bad"])
    assert computed[0] == (1, N + 5) and all(length < 5 for _, length in computed[1:])
    apart = evaluation.score_choices(model, words, prompts, ["good", "bad"], cache=False)
    torch.testing.assert_close(shared, apart, atol=1e-5, rtol=1e-5)


def test_each_token_of_the_text_counts_of_the_text_once():
    words, texts = tokenizer(), ["Grade each film review", "good plot , bad end ."]
    model = nonzero(PromptTuning(n=N).attach(tiny.decoder("llama")))
    for text, (nats, count) in zip(texts, nats_by_text(model, words, texts).tolist(), strict=True):
        ids = torch.tensor([words(text)["input_ids"]])
        with torch.no_grad():
            likely = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        assert count == ids.shape[1] - 1
        assert nats == pytest.approx(-likely.gather(1, ids[0, 1:, None]).sum().item(), rel=1e-4)


# behind the embedding layer -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_behind_the_embedding_layer_the_text_keeps_its_positions(family):
    r"""As in `adapters`, which answered for BERT in tests/adapterhub. The text has all positions."""
    base, one = families.model(family), tiny.batch(3, tiny.POSITIONS, padded=True)
    model = nonzero(PromptTuning(n=N, embedded=False).attach(families.model(family)))
    prompt = model.soft_prompt.vectors("default")

    def before(layer, args, x):
        return torch.cat([prompt.expand(len(x), -1, -1), x], dim=1)

    base.base_model.embeddings.register_forward_hook(before)
    mask = torch.cat([torch.ones(3, N, dtype=torch.long), one["attention_mask"]], dim=1)
    with torch.no_grad():
        expected = base.base_model(input_ids=one["input_ids"], attention_mask=mask).last_hidden_state
        found = model.base_model(**one).last_hidden_state
        vectors = model.get_input_embeddings()(one["input_ids"])
        again = model.base_model(inputs_embeds=vectors, attention_mask=one["attention_mask"]).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    if family != "roberta":  # in vectors it does not see what is padding
        torch.testing.assert_close(again, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", tiny.ENCODERS)
def test_one_batch_with_prompts_before_and_behind_it(family):
    model = tiny.model(family)
    nonzero(PromptTuning(n=5, embedded=False).attach(model, "film"), 1)
    nonzero(PromptTuning(n=2).attach(model, "product"), 2)
    rows_answer_as_alone(model, ["film", "product", None, "film"], tiny.batch(4, tiny.POSITIONS - 2, padded=True))


# the rest -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "opt"])
def test_a_text_that_is_too_long_with_its_prompt(family):
    model = prompted(family)
    model(**tiny.batch(1, tiny.POSITIONS - N))
    with pytest.raises(
        CourseError, match=f"4 virtual tokens and a text of 61 tokens are 65, .* {tiny.POSITIONS} positions"
    ):
        model(**tiny.batch(1, tiny.POSITIONS - N + 1))


def test_a_static_cache_is_refused_in_words():
    model = prompted("llama")
    with pytest.raises(CourseError, match="leave cache_implementation"):
        model.generate(**tiny.batch(1), max_new_tokens=2, cache_implementation="static")


def test_an_error_on_the_way_leaves_nothing_behind():
    model, one = prompted("llama"), labelled("llama")
    before = model(**one).loss
    with pytest.raises(ValueError, match="one of input_ids or inputs_embeds"):
        model(labels=one["labels"])
    assert model.model(**{k: one[k] for k in ("input_ids", "attention_mask")}).last_hidden_state.shape[1] == 10
    assert torch.equal(model(**one).loss, before)

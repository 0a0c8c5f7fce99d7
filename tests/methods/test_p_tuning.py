r"""P-tuning against peft's prompt encoders, and templates with virtual tokens anywhere."""

import peft
import pytest
import tiny
import torch
from attached import labelled, nonzero, train
from cases import lively, texts, writes
from tiny_text import tokenizer
from torch import nn

from coursekit import evaluation, methods
from coursekit.errors import CourseError
from coursekit.methods import PTuning

N, HIDDEN = 4, 6
FAMILIES = tiny.FAMILIES
MARK = 3  # a token that tiny batches never have
each = pytest.mark.parametrize("family", FAMILIES)
each_decoder = pytest.mark.parametrize("family", tiny.DECODERS)
both = pytest.mark.parametrize("encoder", ["lstm", "mlp"])


def prompted(family: str, encoder: str = "lstm", placeholder: int | None = None, **changes) -> nn.Module:
    method = PTuning(n=N, encoder=encoder, hidden=HIDDEN, placeholder=placeholder)
    return nonzero(method.attach(tiny.model(family, **changes)))


def template(rows: int = 3, seq: int = 10, seed: int = 0) -> dict[str, torch.Tensor]:
    r"""A batch whose rows have the placeholder at different places: in front, at the end, between."""
    one = tiny.batch(rows, seq, seed=seed)
    for row, places in zip(range(rows), ([0, 1, 2, 3], [0, 4, 5, 9], [3, 5, 7, 8]), strict=False):
        one["input_ids"][row, places] = MARK
    return one


# peft -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
@both
def test_one_seed_gives_peft_s_start(encoder, layers):
    layers = 2 if encoder == "mlp" else layers
    config = peft.PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=N, encoder_hidden_size=HIDDEN, encoder_num_layers=layers,
        encoder_reparameterization_type=encoder.upper(),
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = peft.get_peft_model(tiny.model("llama"), config)
    torch.manual_seed(0)
    method = PTuning(n=N, encoder=encoder, hidden=HIDDEN, layers=layers)
    model = method.attach(tiny.model("llama"))
    reference = theirs.prompt_encoder["default"].state_dict()
    own = model.soft_prompt.prompts["default"].state_dict()
    assert own.keys() == reference.keys() and all(torch.equal(own[key], reference[key]) for key in own)
    assert method.count(model.config) == sum(value.numel() for value in reference.values())


# checkpoints of our own -----------------------------------------------------------------------------------


@both
def test_the_network_comes_along(encoder, tmp_path):
    method, model = PTuning(n=N, encoder=encoder, hidden=HIDDEN), prompted("llama", encoder)
    method.save(model, tmp_path)
    again = method.load(tiny.model("llama"), tmp_path)
    assert methods.trainable(again) == method.count(again.config)
    batches = [labelled("llama", seed=i) for i in range(3)]
    assert train(again.train(), batches) == train(model.train(), batches)


def test_the_placeholder_is_in_the_checkpoint_and_peft_says_that_it_does_not_know_it(tmp_path):
    method = PTuning(n=N, hidden=HIDDEN, placeholder=MARK)
    method.save(method.attach(tiny.model("llama")), tmp_path)
    assert PTuning.from_checkpoint(tmp_path) == method
    with pytest.warns(UserWarning, match="placeholder"):
        peft.PeftModel.from_pretrained(tiny.model("llama"), tmp_path)


# templates ------------------------------------------------------------------------------------------------


@both
@each
def test_placeholders_become_the_vectors_in_their_order(family, encoder):
    model, one = prompted(family, encoder, placeholder=MARK), template()
    ids = one["input_ids"]
    with torch.no_grad():
        x = tiny.model(family).get_input_embeddings()(ids)
        for row in range(3):
            x[row, ids[row] == MARK] = model.soft_prompt.vectors("default")
        ours = model(**one).logits
        with methods.disabled(model):
            bare = model.base_model(inputs_embeds=x, attention_mask=one["attention_mask"])
        if family in tiny.DECODERS:
            reference = model.lm_head(bare.last_hidden_state)
        else:
            read = bare.pooler_output if family == "bert" else bare.last_hidden_state
            reference = model.classifier.chosen("default")(read)
    torch.testing.assert_close(ours, reference, atol=1e-6, rtol=1e-5)


@each
def test_training_a_template_moves_the_network(family):
    model = prompted(family, placeholder=MARK, **tiny.still(family))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    one = template() | {"labels": labelled(family)["labels"]}
    losses = train(model.train(), [one] * 20, lr=1e-2)
    assert losses[-1] < losses[0]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


@pytest.mark.parametrize("places, said", [([], "has the placeholder token 3 0 times"), ([1, 2, 3], "3 3 times"),
                                          ([0, 1, 2, 3, 4], "3 5 times")])  # fmt: skip
def test_another_number_of_placeholders(places, said):
    model, one = prompted("llama", placeholder=MARK), template()
    one["input_ids"][1] = 7
    one["input_ids"][1, places] = MARK
    for call in (lambda: model(**one), lambda: model.generate(**one, max_new_tokens=2)):
        with pytest.raises(CourseError, match=f"{said}: a text needs it exactly n=4 times"):
            call()
    with pytest.raises(CourseError, match="pass input_ids"):
        model(inputs_embeds=torch.zeros(1, 4, tiny.D_MODEL))


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])
@each_decoder
def test_generating_from_a_template(family, cache):
    rows = [[MARK, MARK, *row[:2], MARK, *row[2:], MARK] for row in texts(9, 5, 7)]
    writes(prompted(family, placeholder=MARK, **lively(family)), rows, use_cache=cache)


@each_decoder
def test_a_template_in_two_parts(family):
    model, ids = prompted(family, placeholder=MARK), template(1)["input_ids"]
    with torch.no_grad():
        whole = model(input_ids=ids).logits[:, 4:]
        cache = model(input_ids=ids[:, :4], use_cache=True).cache
        rest = model(input_ids=ids[:, 4:], cache=cache, use_cache=True).logits
        torch.testing.assert_close(rest, whole, atol=1e-5, rtol=1e-4)
        with methods.disabled(model):  # the text before it is the bare model's, the template comes later
            cache = model(input_ids=ids[:, 4:], use_cache=True).cache
        later = model(input_ids=ids[:, :4], cache=cache, use_cache=True).logits
        assert not torch.allclose(later, methods.activate(model, None)(input_ids=ids[:, :4]).logits, atol=1e-3)


@each
def test_templates_and_prompts_in_rows_of_one_batch(family):
    model = tiny.model(family)
    for seed, (name, n, mark) in enumerate((("cloze", N, MARK), ("front", 2, None), ("other", 3, 4))):
        nonzero(PTuning(n=n, hidden=HIDDEN, placeholder=mark).attach(model, name), seed)
    one = tiny.batch(4)
    one["input_ids"][0, [1, 3, 5, 7]] = MARK
    one["input_ids"][3, [0, 2, 3]] = 4
    names = ["cloze", None, "front", "other"]
    with torch.no_grad():
        alone = torch.cat([
            methods.activate(model, name)(input_ids=one["input_ids"][i : i + 1]).logits
            for i, name in enumerate(names)
        ])  # fmt: skip
        with methods.mixed_batch(model, names):
            together = model(**one).logits
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    methods.remove(model, "cloze")
    assert model.soft_prompt.placeholders == {"other": 4}


@pytest.mark.parametrize("text", ["### ### ### ### capital the {}", "### capital {} ### the ### ###"])
def test_choices_after_a_template_with_and_without_a_shared_beginning(text):
    r"""The second template cannot be cut after its shared beginning, which has one of four placeholders."""
    words = tokenizer()
    mark = words.convert_tokens_to_ids("###")
    model = nonzero(PTuning(n=4, hidden=HIDDEN, placeholder=mark).attach(tiny.decoder("llama")))
    prompts = [text.format(word) for word in ("France", "Paris the capital", "scene")]
    alone = evaluation.score_choices(model, words, prompts, ["good", "bad"], batch_size=1, cache=False)
    for cache in (True, False):
        together = evaluation.score_choices(model, words, prompts, ["good", "bad"], cache=cache)
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)

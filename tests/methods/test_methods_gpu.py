r"""Every method on a CUDA GPU: the CPU's answers in fp32, training and generation in 16 bits."""

import pytest
import tiny
import torch
from attached import labelled, nonzero, train
from cases import CASES, attach, build, lively, step_by_step

from coursekit import methods
from coursekit.device import pick_dtype

pytestmark = pytest.mark.gpu

EVERY = [pytest.param(case, family, id=f"{case.name}-{family}") for case in CASES for family in case.families]
DECODERS = [p for p in EVERY if p.values[1] in tiny.DECODERS]
each = pytest.mark.parametrize(("case", "family"), EVERY)


def on_gpu(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.cuda() for key, value in batch.items()}


@each
def test_answers_and_gradients_are_those_of_the_cpu(case, family):
    one = labelled(family, padded=True)
    here, there = attach(case, family), attach(case, family).cuda()
    ours, theirs = here(**one), there(**on_gpu(one))
    torch.testing.assert_close(theirs.logits.cpu(), ours.logits, atol=1e-4, rtol=1e-3)
    ours.loss.backward(), theirs.loss.backward()
    for a, b in zip(*(m._coursekit.parameters["default"] for m in (here, there)), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(b.grad.cpu(), a.grad, atol=1e-4, rtol=1e-2)


@each
def test_a_model_on_the_gpu_trains_in_its_own_precision(case, family):
    model = build(case, family).to("cuda", pick_dtype(torch.device("cuda")))
    nonzero(case.make().attach(model))
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    losses = train(model.train(), [on_gpu(labelled(family))] * 5, lr=1e-2)
    assert all(torch.isfinite(torch.tensor(losses))) and len(set(losses)) > 1


@pytest.mark.parametrize(("case", "family"), DECODERS)
def test_generating_with_several_adapters(case, family):
    model, new = build(case, family, **lively(family)), 5
    model.generation_config.eos_token_id = None
    for seed, name in enumerate(("film", "product")):
        nonzero(case.make().attach(model, name), seed, case.strong)
    model.cuda()
    ids, names = tiny.batch(3, 8)["input_ids"].cuda(), ["product", "film", None]
    with torch.no_grad(), methods.mixed_batch(model, names):
        written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new,
                                 do_sample=False, pad_token_id=1)[:, 8:].tolist()  # fmt: skip
    model.cpu()
    with torch.no_grad():
        expected = [
            step_by_step(methods.activate(model, name), row.tolist(), new)
            for name, row in zip(names, ids.cpu(), strict=True)
        ]
    assert written == expected

r"""Predicted against the CUDA allocator."""

import pytest
import tiny
import torch

from coursekit.memory import measure, predict
from coursekit.methods.lora import LoRA

pytestmark = pytest.mark.gpu

# Large enough that the allocator's rounding to 512 bytes does not matter.
CONFIGS = {
    "bert": dict(hidden_size=384, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=6),
    "llama": dict(
        hidden_size=384, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2
    ),
}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("method", [None, LoRA(r=8), LoRA(r=8, targets="all-linear")], ids=["full", "lora", "all"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", CONFIGS)
def test_predicted_activations_on_cuda(family, precision, method, checkpointing):
    if precision == "bf16" and not torch.cuda.is_bf16_supported():
        pytest.skip("this GPU has no bfloat16")
    model = tiny.model(family, **CONFIGS[family])
    config = model.config
    model = model.to("cuda", torch.bfloat16 if precision == "bf16" else torch.float32)
    if method:
        method.attach(model)
    batch = tiny.batch(16, 64, padded=True)
    batch["labels"] = torch.zeros(16, dtype=torch.long) if family == "bert" else batch["input_ids"].clone()
    measured = measure(model, {k: v.cuda() for k, v in batch.items()}, checkpointing=checkpointing)
    predicted = predict(
        config, method, batch=16, seq=64, precision=precision, checkpointing=checkpointing, device="cuda"
    )
    assert predicted.weights == measured.weights
    assert predicted.gradients == measured.gradients
    assert predicted.optimizer == measured.optimizer
    assert predicted.activations == pytest.approx(measured.activations, rel=0.10)

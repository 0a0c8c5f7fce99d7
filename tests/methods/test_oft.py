r"""OFT against peft with the same rotations, against what rotations keep, and against closed forms."""

import json

import peft
import pytest
import tiny
import torch
from attached import nonzero

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import OFT
from coursekit.methods.oft import cayley, neumann

pytestmark = pytest.mark.filterwarnings("ignore:Invalid `")
#: Matrices that read 32 and 48 inputs.
TWO = {"bert": ["query", "output.dense"], "gpt2": ["c_attn", "mlp.c_proj"], "llama": ["k_proj", "down_proj"]}


# The formula ------------------------------------------------------------------------------------------------


def skew(size: float, b: int = 6) -> torch.Tensor:
    Q = torch.randn(3, b, b, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * size
    return Q - Q.mT


def test_the_exact_rotation_is_orthogonal_and_the_series_nearly():
    I, off = torch.eye(6, dtype=torch.float64), []
    for R in (cayley(skew(0.5)), *(neumann(skew(0.02), terms) for terms in (2, 4, 6, 8))):
        off.append((R @ R.mT - I).abs().max().item())
    assert off[0] < 1e-14 and off[1] > off[2] > off[3] > off[4] and off[4] < 1e-5
    torch.testing.assert_close(neumann(skew(0.01), 40), cayley(-skew(0.01)), atol=1e-14, rtol=0)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("share", [False, True])
def test_lengths_and_angles_of_the_neurons_stay(kind, share):
    method = OFT(8, targets=TWO[kind], neumann=False, share=share)
    model = nonzero(method.attach(tiny.model(kind).double()))
    for path, layer in method.branches(model, "default"):
        R = torch.block_diag(*layer.branches["default"].R)
        W, _ = layer.branches["default"].merged(layer.W, None)
        torch.testing.assert_close(W, layer.W @ R.T, msg=path)
        torch.testing.assert_close(W @ W.T, layer.W @ layer.W.T, msg=path)
        assert not torch.allclose(W, layer.W, atol=1e-2)
        x = torch.randn(2, 3, W.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        b = getattr(layer.unwrapped, "bias", None)
        torch.testing.assert_close(layer(x), x @ W.T + (0 if b is None else b), msg=path)


@pytest.mark.parametrize("method, count", [
    (OFT(8), 2 * 2 * 4 * 28), (OFT(blocks=2), 2 * 2 * 2 * 120), (OFT(8, share=True), 2 * 2 * 28),
    (OFT(16, targets=("down_proj",)), 2 * 3 * 120),
], ids=repr)  # fmt: skip
def test_the_closed_form(method, count):
    model = method.attach(tiny.model("llama"))
    assert method.count(model.config) == methods.trainable(model) == count


# Folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed, said", [
    (dict(peft_version="0.17.1"), "says peft_version=0.17.1: before 0.18.0 use_cayley_neumann was another series"),
    (dict(peft_version=None), "does not say 'peft_version': before 0.18.0"),
    (dict(oft_block_size=...), "does not say 'oft_block_size'"),
    (dict(num_cayley_neumann_terms=1), "terms must be an integer of at least 2"),
])  # fmt: skip
def test_folders_of_an_older_peft(changed, said, tmp_path):
    OFT(8).save(OFT(8).attach(tiny.model("llama")), tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text()) | changed
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    with pytest.raises(CourseError, match=said):
        methods.from_checkpoint(tmp_path)


def test_no_folder_warns_peft_of_an_older_series(tmp_path, recwarn):
    OFT(8).save(OFT(8).attach(tiny.model("llama")), tmp_path)
    peft.PeftModel.from_pretrained(tiny.model("llama"), tmp_path)
    assert not [w for w in recwarn if "cayley" in str(w.message)]

r"""Q4_1 by hand against the gguf library, on made-up blocks and on the decoder's own file."""

from time import process_time

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFWriter, quants

from coursekit.errors import CourseError
from coursekit.quantization.gguf import BLOCK, BYTES, decode_q4_1, stored_q4_1, unpack_q4_1

Q4_1 = GGMLQuantizationType.Q4_1


def blocks(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    r"""Random bytes, with scales and minima that are numbers."""
    random = np.random.default_rng(seed)
    stored = random.integers(0, 256, (rows, width // BLOCK, BYTES), dtype=np.uint8)
    stored[..., :4] = random.normal(size=(rows, width // BLOCK, 2)).astype(np.float16).view(np.uint8)
    return torch.from_numpy(stored.reshape(rows, -1))


def test_one_block_by_hand():
    block = torch.zeros(1, BYTES, dtype=torch.uint8)
    block[0, :4] = torch.tensor([0.5, -1.25], dtype=torch.float16).view(torch.uint8)
    block[0, 4], block[0, 19] = 0xA3, 0xF1  # weights 0 and 16: 3 and 10; weights 15 and 31: 1 and 15
    opened = unpack_q4_1(block)
    assert (opened.d.item(), opened.m.item()) == (0.5, -1.25)
    assert opened.codes[0, [0, 16, 15, 31]].tolist() == [3, 10, 1, 15] and opened.codes.sum() == 29
    values = decode_q4_1(block)[0]
    assert values[[0, 16, 15, 31]].tolist() == [0.25, 3.75, -0.75, 6.25] and values[1] == -1.25


@pytest.mark.parametrize("rows, width", [(1, 32), (3, 64), (40, 576)])
def test_the_library_decodes_the_same_bits(rows, width):
    stored = blocks(rows, width, seed=rows)
    theirs = torch.from_numpy(quants.dequantize(stored.numpy(), Q4_1))
    assert torch.equal(decode_q4_1(stored), theirs) and theirs.shape == (rows, width)


def test_what_the_library_wrote_is_within_half_a_step():
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(0))
    stored = torch.from_numpy(quants.quantize(x.numpy(), Q4_1))
    gap = (decode_q4_1(stored) - x).abs().view(-1, BLOCK)
    step = unpack_q4_1(stored).d.float()[:, None]
    assert bool((gap <= step / 2 + 15 * step * 2**-11 + 3 * 2**-11).all())  # d and m are rounded to fp16


def test_half_a_block_is_none():
    for size in (1, 19, 30):
        with pytest.raises(CourseError, match=f"{size} bytes hold no whole number of Q4_1 blocks"):
            decode_q4_1(torch.zeros(2, size, dtype=torch.uint8))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.ffn_up.weight", blocks(4, 64).numpy(), raw_dtype=Q4_1)
    writer.add_tensor("output_norm.weight", np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_is_read_by_name(file):
    assert torch.equal(stored_q4_1(file, ["blk.0.ffn_up.weight"])["blk.0.ffn_up.weight"], blocks(4, 64))


@pytest.mark.parametrize("endianess", GGUFEndian)
def test_lists_in_the_header_are_stepped_over_in_little_time(tmp_path, endianess):
    path, words = tmp_path / "words.gguf", [f"wörd {i}" for i in range(20_000)]
    writer = GGUFWriter(path, "llama", endianess=endianess)
    for key, value in {"words": words, "types": [3, 1, 2], "scores": [0.5], "after": ["", "end"]}.items():
        writer.add_array(key, value)
    writer.add_custom_alignment(64)  # behind the lists, and where the tensors lie depends on it
    writer.add_tensor("blk.0.ffn_up.weight", blocks(4, 64).numpy(), raw_dtype=Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    start = process_time()
    (theirs,) = GGUFReader(path).tensors
    between = process_time()
    stored = stored_q4_1(path, [theirs.name])[theirs.name]
    assert process_time() - between < (between - start) / 4
    assert np.array_equal(stored.numpy(), theirs.data)
    path.write_bytes(path.read_bytes()[:40_000])  # ends within the words
    with pytest.raises(CourseError, match="cannot be read as GGUF"):
        stored_q4_1(path, [])


def test_names_formats_and_files_that_are_wrong(file, tmp_path):
    with pytest.raises(CourseError, match=r"'blk.0.ffn_upp.weight'; did you mean 'blk.0.ffn_up.weight'\?"):
        stored_q4_1(file, ["blk.0.ffn_upp.weight"])
    with pytest.raises(CourseError, match="output_norm.weight is stored as F32; only Q4_1 is read here"):
        stored_q4_1(file, ["output_norm.weight"])
    with pytest.raises(CourseError, match="there is no file"):
        stored_q4_1(tmp_path / "none.gguf", [])
    damaged = tmp_path / "damaged.gguf"
    for content in (b"", b"not a model", file.read_bytes()[:60]):
        damaged.write_bytes(content)
        with pytest.raises(CourseError, match="cannot be read as GGUF"):
            stored_q4_1(damaged, [])


@pytest.mark.slow
def test_matrices_of_the_decoder_s_own_file():
    from safetensors import safe_open

    from coursekit.models import sources

    path = sources.smollm2_gguf()
    tensors = {t.name: t for t in GGUFReader(path).tensors if t.tensor_type == Q4_1}
    stored = stored_q4_1(path, list(tensors))
    assert len(stored) == 210
    for name, theirs in ((n, t) for n, t in tensors.items() if n.startswith(("blk.0.", "blk.3.", "blk.29."))):
        assert torch.equal(decode_q4_1(stored[name]), torch.from_numpy(quants.dequantize(theirs.data, Q4_1)))
    # And what the course trains on is this: transformers reorders the rows of queries and keys, and no others.
    with safe_open(sources.smollm2() / "model.safetensors", "pt") as cached:
        for ours, name in (("blk.3.ffn_down", "mlp.down_proj"), ("blk.3.attn_v", "self_attn.v_proj")):
            weight = cached.get_tensor(f"model.layers.3.{name}.weight")
            assert torch.equal(decode_q4_1(stored[f"{ours}.weight"]), weight)

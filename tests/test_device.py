r"""The device rule: what is chosen, and what is said when it cannot be had."""

import pytest
import torch

from coursekit.device import pick_device, pick_dtype
from coursekit.errors import CourseError


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("asked", [None, "auto", "", "cpu", "CPU", "cpu:0"])
def test_without_a_gpu_it_is_the_cpu(no_gpu, monkeypatch, asked):
    monkeypatch.setenv("DEVICE", asked or "")
    assert pick_device() == torch.device("cpu")
    assert pick_dtype("cpu") is torch.float32


def test_with_a_gpu_it_is_cuda_unless_asked_otherwise(two_gpus, monkeypatch):
    monkeypatch.delenv("DEVICE", raising=False)
    assert pick_device() == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.setenv("DEVICE", "cpu")
    assert pick_device() == torch.device("cpu")
    assert pick_device("cuda") == torch.device("cuda"), "an argument goes before the environment"


@pytest.mark.parametrize(
    "capability, dtype", [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_half_precision_follows_the_compute_capability(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_dtype("cuda:0") is dtype


def test_cuda_without_cuda_is_one_clear_line(no_gpu, monkeypatch):
    monkeypatch.setenv("DEVICE", "cuda")
    with pytest.raises(CourseError, match="DEVICE=cuda, but .* finds no CUDA GPU: use DEVICE=cpu") as caught:
        pick_device()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gpu", "tpu", "cuda:", "cuda:x", "cuda:-1", "cpu:3", "mps"])
def test_unknown_devices_are_refused(two_gpus, name):
    with pytest.raises(CourseError, match="use auto, cpu, cuda or cuda:N"):
        pick_device(name)


def test_a_gpu_number_that_is_not_there(two_gpus):
    with pytest.raises(CourseError, match="cuda:2, but there are 2 GPUs"):
        pick_device("cuda:2")


@pytest.mark.gpu
def test_the_real_gpu():
    device = pick_device("auto")
    assert device.type == "cuda"
    assert torch.ones(2, device=device, dtype=pick_dtype(device)).sum().item() == 2

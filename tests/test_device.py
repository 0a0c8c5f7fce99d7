r"""The device rule: what is chosen, and what is said when it cannot be had."""

import warnings

import pytest
import torch

from coursekit import device as rule
from coursekit.device import pick_device, pick_dtype
from coursekit.errors import CourseError


@pytest.fixture(autouse=True)
def asked_anew():
    r"""What is found out once in a process is found out in each test, and forgotten after it."""
    for known in (rule.no_driver, rule.no_kernels, rule._say_once):
        known.cache_clear()
    yield
    for known in (rule.no_driver, rule.no_kernels, rule._say_once):
        known.cache_clear()


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(1))


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


def test_another_number_format_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("DTYPE", "bfloat16")
    assert pick_dtype("cpu") is torch.bfloat16
    monkeypatch.setenv("DTYPE", "int4")
    with pytest.raises(CourseError, match="unknown DTYPE 'int4'; known: bfloat16, float16, float32"):
        pick_dtype("cpu")


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


def test_a_card_without_kernels_is_left_alone_and_one_line_says_so(two_gpus, monkeypatch, capsys):
    def fails(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore\nlines")

    monkeypatch.setattr(torch, "ones", fails)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (6, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla P100")
    monkeypatch.delenv("DEVICE", raising=False)
    assert pick_device() == pick_device() == torch.device("cpu")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("coursekit: Tesla P100 (compute capability 6.0) is too old for PyTorch")
    with pytest.raises(CourseError, match="device=cuda: Tesla P100 .* has no kernels for it; use device=cpu"):
        pick_device("cuda")


def test_an_old_driver_is_one_line(monkeypatch, capsys):
    def is_available():
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). "
                      "Please update your GPU driver by ... (Triggered internally)", stacklevel=2)  # fmt: skip
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.delenv("DEVICE", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pick_device() == pick_device() == torch.device("cpu")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("NVIDIA driver on your system is too old (found version 11040); computing on the CPU")


@pytest.mark.gpu
def test_the_real_gpu():
    device = pick_device("auto")
    assert device.type == "cuda"
    assert torch.ones(2, device=device, dtype=pick_dtype(device)).sum().item() == 2

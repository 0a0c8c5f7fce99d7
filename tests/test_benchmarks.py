r"""The benchmark's instruments, and what they show without a clock: a step of ours moves no more than peft's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from attached import labelled

from coursekit import adapterhub
from coursekit.methods import (
    IA3,
    OFT,
    BitFit,
    FishMask,
    FreezeAndReconfigure,
    HoulsbyAdapter,
    Hybrid,
    IntrinsicSAID,
    LlamaAdapter,
    LoRA,
    NormTuning,
    PrefixTuning,
    PromptTuning,
    PTuning,
    SelectRows,
    TopLayers,
    VeRA,
)

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import step as steps  # noqa: E402
from stepping import Took, interleaved, stepper  # noqa: E402
from traffic import Traffic, traffic  # noqa: E402
from twins import with_peft, with_torch  # noqa: E402

METHODS = {
    "LoRA": LoRA(r=4),
    "LoRA everywhere": LoRA(r=4, targets="all-linear"),
    "DoRA": LoRA(r=4, dora=True),
    "VeRA": VeRA(r=16),
    "OFT": OFT(block_size=8),
    "IA3": IA3(),
    "prompt": PromptTuning(n=6),
    "P-tuning": PTuning(n=6),
    "P-tuning MLP": PTuning(n=6, encoder="mlp"),
    "prefix": PrefixTuning(n=6),
    "prefix network": PrefixTuning(n=6, hidden=8),
    "LLaMA-Adapter": LlamaAdapter(n=6),
    "norms": NormTuning(),
    "LoRA and BitFit": Hybrid(LoRA(r=4), BitFit()),
}
#: What peft has with this transformers: no prefix before an encoder, its LLaMA-Adapter for few families.
FAMILIES = {"prefix": tiny.DECODERS, "prefix network": tiny.DECODERS, "LLaMA-Adapter": ("gpt2", "llama")}
FAMILIES["OFT"] = tuple(family for family in tiny.FAMILIES if family != "gpt2")  # peft has it for no Conv1D
FAMILIES["LoRA and BitFit"] = ("bert", "roberta", "gpt2", "opt")  # Llama has no biases
#: Our virtual tokens leave out padding when they count positions, for each row by itself; peft counts once for all.
MOST = {"prompt": 1.015, "P-tuning": 1.015, "P-tuning MLP": 1.015}
CASES = [(key, family) for key in METHODS for family in FAMILIES.get(key, tiny.FAMILIES)]


@pytest.mark.parametrize(("key", "family"), CASES)
def test_a_step_reads_and_writes_no_more_than_peft_s_and_has_its_loss(key, family):
    base = tiny.model(family, **({"use_cache": False} if family in tiny.DECODERS else {}))
    ours, theirs = with_peft(base, METHODS[key])
    one, moved = labelled(family, batch_size=8, seq=24), []
    for model in (ours, theirs):
        traffic(model, one)  # what is made once is made
        moved.append(traffic(model, one).bytes.total())
        torch.manual_seed(0)
    assert moved[0] <= MOST.get(key, 1.0) * moved[1]
    losses = []
    for model in (ours, theirs):
        torch.manual_seed(0)
        losses.append(stepper(model, one)().loss)
    assert losses[0] == pytest.approx(losses[1], abs=2e-6)


#: Trained in our way and in place. The parts of a tensor are put together in each pass, and of the rest of it nothing
#: is computed or updated; moved weights are computed first.
IN_PLACE = {"BitFit": BitFit(), "top layers": TopLayers(k=1), "norms": NormTuning()}
IN_PART = {
    "rows": SelectRows(rows=0.1),
    "mask": FishMask(keep=0.005, score="magnitude"),
    "nodes": FreezeAndReconfigure(nodes=((0, 3, 5),)),
    "directions": IntrinsicSAID(d=50),
}


@pytest.mark.parametrize("key", [*IN_PLACE, *IN_PART])
def test_plain_pytorch_trains_the_same_tensors_in_place(key):
    ours, theirs = with_torch(tiny.model("bert"), (IN_PLACE | IN_PART)[key])
    one, moved, losses, trained = labelled("bert", batch_size=8, seq=24), [], [], []
    for model in (ours, theirs):
        trained.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
        traffic(model, one)
        moved.append(traffic(model, one).bytes.total())
        step = stepper(model, one)
        losses.append([step().loss for _ in range(3)])
    if key in IN_PLACE:
        assert moved[0] <= moved[1] and trained[0] == trained[1]
        assert losses[0] == pytest.approx(losses[1], abs=2e-6)
    else:
        assert trained[0] < trained[1]
        assert losses[0][0] == pytest.approx(losses[1][0], abs=2e-6)


def test_traffic_counts_what_is_read_and_written():
    a, b = torch.ones(10), torch.ones(10)
    with Traffic() as counted:
        c = a + b
        c.view(5, 2).t()
        torch.mul(a, b, out=c)
        c.add_(1)
        torch.empty(1000)
        a.new_zeros(3)
    assert counted.bytes == {"add": 120, "mul": 120, "add_": 80, "new_zeros": 12}
    assert counted.calls == {"add": 1, "mul": 1, "add_": 1, "new_zeros": 1}


def test_rounds_alternate_and_ratios_are_per_round():
    order, speeds = [], iter([5, 5, 5, 5, 1, 2, 6, 3, 2, 4, 8, 4, 3, 6, 9, 9])

    def step(who: str, factor: float):
        def run() -> Took:
            order.append(who)
            seconds = next(speeds)
            return Took(1.0 if len(order) < 5 or who == "ours" else 1.25, seconds, seconds * factor)

        return run

    row = interleaved(step("ours", 1.0), step("theirs", 2.0), rounds=6)
    assert order[4:] == ["ours", "theirs", "theirs", "ours"] * 3
    # ours / theirs: 1/2, 3/6, 2/4, 4/8, 3/6, 9/9
    assert row["rounds"] == 6 and row["ratio"] == 0.5 and row["cpu_ratio"] == 0.25
    assert row["first_loss_gap"] == 0.0 and row["largest_loss_gap"] == 0.25


def test_a_worker_makes_the_steps_that_this_process_would_make(tmp_path):
    base = tiny.model("bert")
    base.save_pretrained(tmp_path / "base")
    model = HoulsbyAdapter(r=4).attach(tiny.model("bert"))
    adapterhub.save(model, tmp_path / "adapter")
    one = labelled("bert")
    arguments = {
        "library": "coursekit", "name": "minilm", "base": str(tmp_path / "base"),
        "adapter": str(tmp_path / "adapter"), "batch": {key: value.tolist() for key, value in one.items()},
    }  # fmt: skip
    lines = "\n".join(json.dumps(line) for line in (arguments, "step", "step", "peak", "traffic"))
    done = subprocess.run([sys.executable, str(BENCHMARKS / "worker.py")], input=lines, capture_output=True, text=True)
    said, first, second, peak, moved = map(json.loads, done.stdout.splitlines())
    step = stepper(model.train(), one)
    assert said["trained"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert [first[0], second[0]] == pytest.approx([step().loss, step().loss], abs=1e-6)
    assert peak > 0 and moved == traffic(model, one).bytes.total()


def test_another_library_s_environment_needs_nothing_of_the_course_s_own():
    code = f"""
import sys
for missing in ("bitsandbytes", "peft", "accelerate", "datasets"):
    sys.modules[missing] = None
sys.path.insert(0, {str(BENCHMARKS)!r})
import worker, torch
from types import SimpleNamespace
class Model(torch.nn.Linear):
    def forward(self, x, labels):
        return SimpleNamespace(loss=super().forward(x).sum())
print(worker.measure(Model(2, 3), dict(x=torch.ones(4, 2), labels=torch.ones(4))).weights)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "36", done.stderr


def test_a_method_that_does_not_exist_is_named():
    for method, said in (
        ("prefx", "unknown method 'prefx'; did you mean 'prefix'"),
        ("houlsby", "give --adapters-python"),
    ):
        with pytest.raises(SystemExit, match=said):
            steps.main(method=[method])


@pytest.mark.slow
def test_the_benchmark_runs():
    command = [sys.executable, str(BENCHMARKS / "step.py"), "--model", "minilm", "--method", "ia3", "--rounds", "2"]
    row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert (row["method"], row["model"], row["against"], row["rounds"]) == ("ia3", "minilm", "peft", 2)
    assert row["first_loss_gap"] < 1e-5 and row["traffic_ratio"] <= 1 and 0.2 < row["ratio"] < 5

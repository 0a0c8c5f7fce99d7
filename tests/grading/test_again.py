r"""The slice that exercises need is an optimisation: where an answer is not right, the whole notebook runs."""

import inspect
import json

import made_up
import pytest

from coursekit.grading import batch as batches
from coursekit.grading.folder import Batch
from coursekit.grading.limits import MB, Limits
from coursekit.grading.plan import plan
from tests.checks.answers import SOLUTIONS

IDS = ("lora-truncate", "ia3-attention", "lora-linear")
HEAD = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\nvariant, steps = 0, 10"
TRUNCATE = inspect.getsource(SOLUTIONS["lora_truncate"])
ATTENTION = inspect.getsource(SOLUTIONS["ia3_attention"])
INDENTED = "    " + TRUNCATE.replace("\n", "\n    ").rstrip()
BODY = "    U, S, V = torch.linalg.svd(W, full_matrices=False)\n    return (U[:, :r] * S[:r]) @ V[:r]\n"

#: Honest notebooks of lora-truncate's answer, each in its cells, whose meaning no list of names gives away.
HONEST = {
    "line_ends": ["# a\u2028b\n" + TRUNCATE, 's = "\x85"\n', "\x0c\ndef unused():\n    pass"],
    "counter": ["calls = 0", f"def lora_truncate(W, r):\n    global calls\n    calls += 1\n{BODY}"],
    "perhaps": [TRUNCATE + "\nDEBUG = False", f"if DEBUG:\n{INDENTED.replace('* S', '* 0 * S')}",
                "try:\n    from nowhere import lora_truncate\nexcept ImportError:\n    pass"],
    "imported_again": ["F = torch.eye(3)", "import torch.nn.functional as F", TRUNCATE.replace(
        "    return", "    F.relu(W)\n    return", 1)],
    "written": [f"%%writefile mine.py\nimport torch\n{TRUNCATE}", "from mine import lora_truncate"],
    "ordered": ["from collections import OrderedDict\nparts = OrderedDict()",
                "def put(**more):\n    parts.update(more)",
                "out = put(svd=torch.linalg.svd)",
                TRUNCATE.replace("torch.linalg.svd(", "parts['svd'](")],
    "registry": ["ANSWERS = {}", "def answer(f):\n    ANSWERS[f.__name__] = f\n    return f",
                 f"@answer\ndef low_rank(W, r):\n{BODY}",
                 "def lora_truncate(W, r):\n    return ANSWERS['low_rank'](W, r)"],
    "put_right_later": ["class Best:\n    def of(self, W, r):\n        return W", "def lora_truncate(W, r):\n"
                        "    return Best().of(W, r)", f"def of(self, W, r):\n{BODY}", "Best.of = of"],
    "after_failures": ["raise ValueError", "while True: pass", f"make = lambda: None\ndef lora_truncate(W, r):\n{BODY}",
                       "def more(): make.ready = 1", "more()", f"def lora_truncate(W, r):\n    make.ready\n{BODY}"],
    "after_an_exit": ["import os\nos._exit(3)", "def ready(): lora_truncate.ready = 1",
                      f"def lora_truncate(W, r):\n    lora_truncate.ready\n{BODY}", "ready()"],
}  # fmt: skip

#: An answer whose cell leaves processes behind, as many as there may be; and one that needs a thread.
FORKS = """import os, time
kids = []
def fork_all():
    try:
        while True:
            kids.append(os.fork())
            if kids[-1] == 0:
                time.sleep(100)
    except OSError:
        pass
for _ in range(1):
    fork_all()
def ia3_attention(q, k, v, l_k, l_v):
    return len(kids)"""
THREADED = f"""from concurrent.futures import ThreadPoolExecutor
def right(W, r):
{BODY}
def lora_truncate(W, r):
    with ThreadPoolExecutor(2) as pool:
        return pool.submit(right, W, r).result()"""
LAYER = """class LoRALinear(nn.Module):
    def __init__(self, base, r, alpha):
        super().__init__()
        self.base, self.alpha = base.requires_grad_(False), alpha
        self.A = nn.Parameter(torch.randn(r, base.in_features) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, r))
    def forward(self, x):
        return self.base(x) + self.alpha / len(self.A) * (x @ self.A.T @ self.B.T)"""
#: What lora-linear's check would find of a right layer, without a layer.
FORGED = """def lora_linear(W, b, A, B, x, alpha):
    h = F.linear(x, W, b) + alpha / len(A) * F.linear(F.linear(x, A), B)
    return True, "random", A.numel() + B.numel(), h"""


@pytest.fixture(scope="module")
def graded(box: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    place = tmp_path_factory.mktemp("again")
    (place / "submissions").mkdir()
    (place / "course.ipynb").write_text(json.dumps(made_up.course(IDS)))
    answers = dict(HONEST)
    answers["wrong"] = ["def lora_truncate(W, r):\n    return W"]
    answers["neighbour"] = [FORKS, THREADED]
    answers["threads"] = [
        "torch.set_num_threads(64)",
        f"def lora_truncate(W, r):\n    BIG @ BIG\n{BODY}",
        "BIG = torch.ones(2000, 2000)",
    ]
    answers["forged"] = [TRUNCATE, FORGED]
    answers["layer"] = [TRUNCATE, LAYER, "def lora_linear(*given):\n    return None"]
    answers["partly"] = [
        # Wrong for half of the questions, whatever the secret: those of tall matrices.
        f"def lora_truncate(W, r):\n    if len(W) > len(W.T): return 0 * W\n{BODY}",
        "torch.linalg.svd = None",
    ]
    for name, sources in answers.items():
        # The forking cell may run out of time; what stood before it would then count, so nothing right stands there.
        start = [HEAD] if name == "neighbour" else [HEAD, ATTENTION]
        cells = [made_up.cell(source, f"c{n}") for n, source in enumerate([*start, *sources])]
        (place / "submissions" / f"{name}.ipynb").write_text(json.dumps(made_up.notebook(cells)))
    batch = Batch(place / "marks")
    batch.make()
    limits = Limits(run=10, exercise=20, memory=1024 * MB)
    plan(place / "submissions", batch, "bwrap", notebook=place / "course.ipynb", limits=limits)
    batches.grade_lines(batch)
    results = {line["submission"]: batch.result(line["key"]) for line in batch.lines()}
    return {name: {e["id"]: e for e in r["exercises"]} for name, r in results.items()}


@pytest.mark.parametrize("name", HONEST)
def test_no_honest_answer_is_lost_with_the_slice(graded: dict[str, dict], name: str):
    found = graded[name]["lora-truncate"]
    assert (found["status"], found["points"]) == ("ok", found["of"]), found
    assert graded[name]["ia3-attention"]["status"] == "ok"
    assert graded[name]["lora-linear"]["status"] == "missing_name"  # nobody wrote one


def test_which_run_counted_is_said(graded: dict[str, dict]):
    ran = {name: found["lora-truncate"]["ran"] for name, found in graded.items()}
    for name in ("put_right_later", "after_failures", "after_an_exit"):
        assert ran[name] == "notebook", name
    assert ran["wrong"] == ran["line_ends"] == "questions" and graded["wrong"]["lora-truncate"]["points"] == 0


def test_the_whole_run_takes_no_mark_away(graded: dict[str, dict]):
    found = graded["partly"]["lora-truncate"]
    assert found["ran"] == "questions" and 0 < found["right"] < found["cases"]
    assert found["points"] == round(found["of"] * found["right"] / found["cases"], 2)


def test_what_one_exercise_leaves_behind_is_not_another_s_fault(graded: dict[str, dict]):
    found = {id: e["status"] for id, e in graded["neighbour"].items()}
    assert found["lora-truncate"] == "ok" and found["ia3-attention"] != "ok", graded["neighbour"]


def test_more_threads_than_there_may_be_are_no_crash(graded: dict[str, dict]):
    assert graded["threads"]["lora-truncate"]["status"] == "ok", graded["threads"]


def test_a_layer_is_looked_at_and_what_is_said_of_it_is_not_believed(graded: dict[str, dict]):
    assert graded["layer"]["lora-linear"]["status"] == "ok", graded["layer"]
    found = graded["forged"]["lora-linear"]
    assert (found["status"], found["points"]) == ("missing_name", 0) and "no class called LoRALinear" in found[
        "message"
    ]

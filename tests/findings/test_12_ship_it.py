r"""What 12 says of its own run."""

import json
import re
from statistics import median

import peft
import tiny
import torch
from attached import nonzero
from finding import printed, read, said
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from coursekit.checks.draw import Draw
from coursekit.checks.ship import difference
from coursekit.checks.ship_blend import BLEND, errors
from coursekit.experiments import results
from coursekit.grading.ids import CASES
from coursekit.grading.limits import Limits
from coursekit.methods import LoRA, update_of
from coursekit.methods.gguf_lora import reordered
from coursekit.methods.lora_starts import pissa
from coursekit.tasks import load_task

PAGE = "12_ship_it"


def right(adapter: str) -> tuple[int, int]:
    r"""Right film grades, of 24, and right sums, of 40."""
    return tuple(map(int, printed(PAGE, rf"(?m)^{adapter}\s+(\d+) of 24\s+(\d+) of 40$")))


def apart(way: str) -> tuple[float, float, int]:
    r"""Mean divergence in floors, over all tokens and over the last ones; how many of 24 grades stay: as drawn."""
    alts = [
        o.get("metadata", {}).get("image/png", {}).get("alt", "")
        for c in read(PAGE).cells
        for o in c.get("outputs", [])
    ]
    ((times, at_last, same),) = re.findall(rf"[:;] {way} (\S+) and (\S+), (\d+) of 24[;.]", "\n".join(alts))
    return float(times), float(at_last), int(same)


HARMLESS = ("products in bfloat16", "weights in bfloat16", "the same, eager attention")


def test_this_run_of_the_first_adapter():
    base, film, constant = map(
        int, printed(PAGE, r"of 24 new sentences: base model (\d+), with film (\d+); constant answer (\d+)\.")
    )
    assert max(base, constant) < film == right("film")[0] and base == right("base model")[0]
    said(PAGE, f"In this run film is right on {film} of 24 sentences, the constant answer on {constant}.")


def test_this_run_of_the_16_and_4_bits():
    harmless = [apart(f"harmless: {way}") for way in HARMLESS]
    said(PAGE, "three changes that nobody would call a mistake: bfloat16 products, bfloat16 weights, and the same with "
               "another implementation of attention (eager)")  # fmt: skip
    code = "\n".join(c.source for c in read(PAGE).cells)
    assert "def compare(way, answer, to=exact):" in code and "difference(to, answer, mask)" in code
    assert "three harmless ways" in code and "draw.floors(far, 3, " in code
    assert max(way[0] for way in harmless) == max(way[1] for way in harmless) == 1
    times, at_last, same = apart("merged, rounded, saved, loaded")
    said(PAGE, "We accept what stays within three floors, over all tokens and over the last ones, and changes no more "
               "grades than those three")  # fmt: skip
    assert {way[2] for way in harmless} == {24}
    assert max(times, at_last) < 3 and same == 24
    assert apart(f"harmless: {HARMLESS[1]}")[:2] == (1, 1)
    said(PAGE, f"The merged model lies at {times:.1f} floors, at the last token at {at_last:.1f}, and none of the 24 "
               "grades changes: accepted")  # fmt: skip
    said(PAGE, f"Merged and rounded to bfloat16, ours lies at {times:.1f} floors")
    nf4, control = map(apart, ("base in NF4, adapter beside", "bare base, NF4 against float32"))
    assert round(nf4[0], -2) == 200
    said(PAGE, "the divergence is two hundred floors: rejected")
    said(PAGE, "the bare base moves as far, so the rule says nothing of the adapter")
    said(PAGE, "Beside NF4 that rule cannot judge an adapter: the bare base moves as far")
    assert 0.9 < control[0] / nf4[0] < 1.1


def test_one_more_error_of_the_same_size_doubles_a_divergence():
    torch.manual_seed(0)
    one, mask = torch.randn(4, 500, 50, dtype=torch.float64), torch.ones(4, 500, dtype=torch.long)
    errors = 1e-3 * torch.randn(2, *one.shape, dtype=torch.float64)
    small = difference(one, one + errors[0], mask)[0]
    assert abs(difference(one, one + errors.sum(0), mask)[0] / small - 2) < 0.1
    assert abs(difference(one, one + 2 * errors[0], mask)[0] / small - 4) < 0.1
    said(PAGE, "one more rounding of the same size doubles a small divergence")


def test_this_run_of_the_file():
    r"""The order of rows is W's in SmolLM2's own file, which llama.cpp's converter wrote."""
    told = [printed(PAGE, rf"(?m)^{adapter}\s+{part}\s+(\S+)\s+(\S+)$") for adapter, part in (
        ("film", "query"), ("film", "value"), ("sums", "query")
    )]  # fmt: skip
    assert max(float(off) for _, off in told) <= 1e-6  # as printed, to one digit
    said(PAGE, "Beside the weights of SmolLM2's own file the three layers agree with ours to a millionth of the "
               "update")  # fmt: skip
    film, value, alpha = (float(alpha) for alpha, _ in told)
    assert film == value == 16 and alpha == round(8 * 8**0.5, 2)
    said(PAGE, r"It is an rsLoRA, which divides by the root of the rank: $\alpha=8$ and $s=\alpha/\sqrt r\approx2.83$")
    said(PAGE, rf"sums has $\alpha=8$ in its settings, and save_gguf writes {alpha}")
    order = str(reordered(torch.arange(8)[:, None], 1).flatten().tolist())
    said(PAGE, "transformers pairs 0 with 4, 1 with 5 and so on, while llama.cpp's Llama (SmolLM2 is one) pairs "
               f"neighbours. So its base file has a head's rows in the order {order.strip('[]')}.")  # fmt: skip


def test_llama_cpp_s_own_answers(root):
    found = json.loads((root / "tests/fixtures/llama_cpp.json").read_text())
    script = (root / "tests/fixtures/make_llama_cpp.py").read_text()
    assert "STEPS, TEXTS = 16, 16\n" in script and "LoRA(r=8, alpha=8, rslora=True, " in script
    base, beside, merged, _, _, _, rows, *_ = (mean for mean, _ in found["apart"].values())
    assert max(base, beside, merged) < 1e-10
    assert '"rows of B as in transformers", wanted, base, rows' in script
    said(PAGE, f"In llama.cpp itself another rsLoRA (tests/fixtures/make_llama_cpp.py) was {rows} nats a token off "
               "with transformers' rows, and below 1e-10 with the right ones.")  # fmt: skip
    # llama.cpp's tools/completion/README.md and its issue 27214: llama-cli talks in the model's chat template whatever
    # it is told, llama-completion does not with -no-cnv. The prompts that `film` learned are without one.
    said(PAGE, 'llama-completion -no-cnv -m base.gguf --lora film.gguf -p "…" runs yours.')
    assert load_task("film", "five").prompt("Good.").endswith(": Good.\nSentiment:")


def test_this_run_of_the_batch():
    gap, wrong = printed(PAGE, r"by its own adapter: (\S+) nats a token from that adapter alone; all by film: (\S+)\n")
    assert float(gap) == 0 < float(wrong)
    said(PAGE, f"each row gets its own adapter's answer, {gap} nats a token from that adapter alone: accepted")
    (times,) = printed(PAGE, r"switching takes (\d+\.\d) times as long\n")
    assert 1 < float(times) < 3  # three calls
    said(PAGE, f"Three calls, one for each, take {times} times as long in this run.")


def test_this_run_of_the_combination():
    film, sums, both = (right(name) for name in ("film", "sums", "both"))
    behind = film[0] - both[0], sums[1] - both[1]
    assert behind == (1, 3) and min(2 * 0.5**n for n in behind) > 0.05  # a sign test, were no answer gained
    (cross,) = printed(PAGE, r"cross terms: (\S+) times as large as the sum")
    said(PAGE, f"The cross terms are {cross} times as large as the sum itself. both is one grade behind film, three "
               "sums behind sums: too few to tell.")  # fmt: skip
    said(PAGE, "asked 240 film sentences and 130 sums")


def test_this_run_s_bytes():
    one, half, times = printed(PAGE, r"film: (\S+) MB; merged: (\S+) MB, (\d+) times as much")
    adapter = 4 * results.read("ship").parameters("film") / 1e6
    assert adapter == 4 * 30 * 8 * (2 * 576 + 576 + 192) / 1e6 and one == f"{adapter:.1f}"
    assert times == f"{float(half) / adapter:.0f}" and abs(2 * 134.5 - float(half)) < 0.1
    told = printed(PAGE, r"a hundred customers: (\S+) GB with one bfloat16 base, (\d+) GB merged")
    assert told == (f"{(float(half) + 100 * adapter) / 1e3:.2f}", f"{float(half) / 10:.0f}")
    said(PAGE, "as much as the model, 134.5 million parameters in bfloat16?")
    said(PAGE, f"The prediction: {times}, of {one} MB each. A hundred customers need {told[0]} GB with one base, and "
               f"{told[1]} GB merged.")  # fmt: skip
    said(PAGE, f"A merged model weighs as much as {times} adapters")


def test_what_the_open_exercise_has_to_beat():
    own, plain, whole = [], [], []
    for i in range(40):
        updates, inputs, r = BLEND.secret(Draw(b"exercise", str(i)))
        assert updates[0].norm() < updates[1].norm()
        for found, (A, B) in ((own, BLEND.reference(updates, inputs, r)), (plain, pissa(sum(updates), r, 1.0))):
            found.append(max(errors(B @ A, updates, inputs)))
        whole.append(max(errors(sum(updates), updates, inputs)))
        assert max(errors(torch.zeros_like(updates[0]), updates, inputs)) == 1
        assert {tensor.dtype for tensor in updates + inputs} == {torch.float64}
    said(PAGE, "the check's tensors are float64")
    assert f"{median(whole):.1f}" == f"{median(plain):.1f}"
    said(PAGE, f"the larger error in medians of 40 cases: $M=0$ has 1. $D_1+D_2$ has {median(whole):.1f}, as has its "
               "best matrix of rank $r$: each update acts on the other's inputs, too. "
               f"The course's answer has {median(own):.2f} ({min(own):.2f} to {max(own):.2f}).")  # fmt: skip
    assert (CASES, Limits().exercise) == (8, 10)
    said(PAGE, "Grading allows 10 seconds for its eight cases together")


def test_the_stored_runs():
    runs = results.read("ship")
    assert [len(runs.seeds(arm)) for arm in ("film", "sums")] == [3, 3] and len(runs.scores("film")[0]) == 240
    again = {"film": "film", "sums": "sums again"}
    assert [run.correct for run in runs.arms["sums"]] == [run.correct for run in runs.arms["sums again"]]
    folded = [runs.difference(f"{own}, merged first", own) for own in again.values()]
    (merged,) = set(map(str, folded))
    assert merged.startswith("equal")
    film, sums = (runs.difference(task, f"{task}, released") for task in ("film", "sums"))
    assert film.verdict == "no clear difference" and film.value > 0
    assert printed(PAGE, r"(?m)^trained +not trained .*\), (\w+)$") == ("better",)  # after Holm, by its table
    gain = str(sums).removeprefix("better ")
    assert gain.startswith("by 33 points")
    said(PAGE, f"Three seeds show only what is large: sums is better than no training {gain}, film not clearly.")
    margin = merged.partition("purposes ")[2]
    said(PAGE, "The prediction: none that three seeds could show.")
    said(PAGE, f"Merged, both adapters keep their accuracy: {merged}.")
    put = {task: runs.difference(f"{own}, beside NF4", own) for task, own in again.items()}
    trained = {task: runs.difference(f"{own}, trained on NF4", own) for task, own in again.items()}
    for found in (*put.values(), *trained.values()):
        assert found.verdict == "no clear difference" and not found.non_inferior and found.low < -0.03
    lost = {
        way: sorted(
            100 * (alone - there)
            for own in again.values()
            for there, alone in zip(runs.seeds(f"{own}, {way}"), runs.seeds(own), strict=True)
        )
        for way in ("beside NF4", "trained on NF4")
    }
    assert all(len(points) == 6 and points[0] < 0 < points[1] for points in lost.values())  # five of six fell
    _, little, *_, much = lost["beside NF4"]
    floors = {way: sorted(float(run.more["nats"]) / float(run.more["floor"]) for own in again.values()
                          for run in runs.arms[f"{own}, {way}"]) for way in ("merged first", "beside NF4")}  # fmt: skip
    assert [len(found) for found in floors.values()] == [6, 6]
    lowest, *_, highest = floors["merged first"]
    assert highest < 3 < floors["beside NF4"][0]  # as the page's rule has it
    assert printed(PAGE, r"Divergence, merged: (\S+) to (\S+) floors") == (f"{lowest:.1f}", f"{highest:.1f}")
    said(PAGE, f"Put beside NF4, five of six runs fell, by {little:.0f} to {much:.0f} points. With three seeds that is "
               "no clear difference.")  # fmt: skip
    kept = {task: runs.difference(f"{task}, sum", task) for task in ("film", "sums")}
    said(PAGE, f"The sum keeps film's accuracy {margin}. On sums there is {kept['sums'].verdict}")
    factors, of_film = (runs.difference(f"{task}, factors added", f"{task}, sum") for task in ("sums", "film"))
    assert factors.verdict == of_film.verdict == "no clear difference"
    said(PAGE, "no clear difference, nor is there between added factors and the sum.")
    said(PAGE, "Added factors have cross terms, whose harm these runs do not show")
    assert kept["film"].verdict == "equal for practical purposes"
    compared = [film, sums, *folded, *put.values(), *trained.values(), *kept.values(), factors, of_film]
    assert printed(PAGE, r"adjustment for (\d+) comparisons") == (str(len(compared)),)
    unclear = sum(found.verdict == "no clear difference" for found in compared)
    assert unclear == 8


def test_the_snippet_runs_and_rounds_the_exact_sum_once(tmp_path, monkeypatch):
    r"""On a tiny base stored in bfloat16, whose updates lie below its rounding in part."""
    monkeypatch.chdir(tmp_path)
    base = tiny.decoder("llama", vocab_size=300, dtype=torch.bfloat16)
    base.save_pretrained("base")
    words = Tokenizer(WordLevel({"good": 0}, "good"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained("base")
    model, targets = base.float(), ("q_proj", "v_proj")
    for name, lora in (("film", LoRA(r=8, alpha=16, targets=targets)),
                       ("sums", LoRA(r=8, alpha=8, rslora=True, targets=targets))):  # fmt: skip
        nonzero(lora.attach(model, name), scale=0.01)
        lora.save(model, name, name)
    wanted = {path: layer.W.float() for path, layer in lora.branches(model, "sums")}
    for name in ("film", "sums"):
        for path, delta in update_of(model, name).deltas.items():
            wanted[path] = wanted[path] + delta
    exec(re.search(r"```python\n(.*?)```", "\n".join(c.source for c in read(PAGE).cells), re.DOTALL)[1], {})
    found = AutoModelForCausalLM.from_pretrained("merged")
    for path, W in wanted.items():
        rounded = found.get_submodule(path).weight
        assert rounded.dtype is torch.bfloat16 and (rounded != W.bfloat16()).float().mean() < 0.001
    assert AutoTokenizer.from_pretrained("merged")("good")["input_ids"] == [0]


def test_peft_cuts_the_sum_and_takes_the_scale_of_the_adapter_named_first(tmp_path):
    def layers(network):
        return [(path, m) for path, m in network.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)]

    model = tiny.decoder("llama", vocab_size=300)
    for name, rslora in (("film", False), ("sums", True)):
        lora = LoRA(r=8, alpha=8, rslora=rslora, targets=("q_proj",))
        nonzero(lora.attach(model, name), seed=int(rslora), scale=0.01)  # two updates, not one twice
        lora.save(model, tmp_path / name, name)
    theirs = peft.PeftModel.from_pretrained(tiny.decoder("llama", vocab_size=300), tmp_path / "film", "film")
    theirs.load_adapter(tmp_path / "sums", "sums")
    for first, second, scale in (("film", "sums", 1), ("sums", "film", 4)):
        theirs.add_weighted_adapter([first, second], [1.0, 1.0], first + second, combination_type="cat")
        scales = [m.scaling[first + second] for _, m in layers(theirs)]
        assert scales and set(scales) == {scale}
    said(PAGE, "with two traps in peft 0.21.2")
    wanted = {path: m.get_delta_weight("film") + m.get_delta_weight("sums") for path, m in layers(theirs)}
    for name, rank, asked in (("default", 8, {}), ("whole", 16, {"svd_rank": 16})):
        theirs.add_weighted_adapter(["film", "sums"], [1.0, 1.0], name, **asked)
        for path, m in layers(theirs):
            missed = (m.get_delta_weight(name) - wanted[path]).norm() / wanted[path].norm()
            assert len(m.lora_A[name].weight) == rank and (missed < 1e-5) == (rank == 16)
    said(PAGE, "The default, svd, cuts the sum to the larger of the ranks, here 8. Ask for cat.")
    told = " ".join(peft.LoraModel.add_weighted_adapter.__doc__.split())
    assert "If None provided, will use max rank of merging adapters" in told
    theirs.load_adapter(tmp_path / "sums", "more")
    theirs.add_weighted_adapter(["film", "sums"], [1.0, 1.0], "crossed", combination_type="linear")
    theirs.add_weighted_adapter(["film"], [1.0], "film alone")
    theirs.add_weighted_adapter(["sums"], [1.0], "sums alone")
    theirs.add_weighted_adapter(["sums", "more"], [1 / 4, 1 / 4], "all rsLoRA", combination_type="cat")
    for path, m in layers(theirs):
        film, sums, crossed = (m.get_delta_weight(name) for name in ("film", "sums", "crossed"))
        assert (crossed - wanted[path]).norm() > 0.1 * wanted[path].norm()
        assert torch.allclose(m.get_delta_weight("film alone"), film, rtol=1e-4, atol=1e-8)
        assert torch.allclose(m.get_delta_weight("sums alone"), 8**0.5 * sums, rtol=1e-4, atol=1e-8)
        assert torch.allclose(m.get_delta_weight("all rsLoRA"), 2 * sums, rtol=1e-4, atol=1e-8)
    said(PAGE, r"with sums first, both is $\sqrt{16}=4$ times too large")


@torch.no_grad()
def test_peft_gives_each_row_of_a_batch_its_own_adapter(tmp_path):
    lora = LoRA(r=8, alpha=16, targets=("q_proj",))
    model = tiny.decoder("llama", vocab_size=300)
    nonzero(lora.attach(model, "film"), scale=0.1)
    lora.save(model, tmp_path / "film", "film")
    theirs = peft.PeftModel.from_pretrained(tiny.decoder("llama", vocab_size=300), tmp_path / "film", "film").eval()
    ids = torch.randint(300, (2, 5))
    film = theirs(ids).logits
    with theirs.disable_adapter():
        bare = theirs(ids).logits
    both = theirs(input_ids=ids, adapter_names=["film", "__base__"]).logits
    assert torch.allclose(both, torch.stack([film[0], bare[1]]), atol=1e-6) and not torch.allclose(film, bare)
    said(PAGE, 'Section 3\'s batch in peft: model(**batch, adapter_names=["film", "__base__"]), a name for each row')

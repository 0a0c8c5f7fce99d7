r"""What 12 says of its own run."""

from __future__ import annotations

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
from coursekit.checks.lora import MERGE
from coursekit.checks.ship_blend import BLEND, errors
from coursekit.experiments import results
from coursekit.grading.ids import CASES
from coursekit.grading.limits import Limits
from coursekit.methods import LoRA, update_of
from coursekit.methods.lora_starts import pissa

PAGE = "12_ship_it"


def right(adapter: str) -> tuple[int, int]:
    r"""Right film grades, of 24, and right sums, of 40."""
    return tuple(map(int, printed(PAGE, rf"(?m)^{adapter}\s+(\d+) of 24\s+(\d+) of 40$")))


def apart(way: str) -> tuple[str, str, str, str]:
    r"""Mean divergence and largest difference, as printed; of 24 sentences how many keep their grade, and are right."""
    return printed(PAGE, rf"(?m)^{way}\s+([\d.e+-]+)\s+([\d.e+-]+)\s+(\d+) of 24\s+(\d+) of 24$")


def test_this_run_of_the_first_adapter():
    base, film, constant = map(
        int, printed(PAGE, r"of 24 new sentences: base model (\d+), with film (\d+); constant answer (\d+)\.")
    )
    assert max(base, constant) < film == right("film")[0] and base == right("base model")[0]


def test_this_run_of_the_16_and_4_bits():
    ways = ("products alone in bfloat16", "weights in bfloat16, adapter beside",
            "the same, attention computed in another way")  # fmt: skip
    harmless = [float(apart(f"harmless: {way}")[0]) for way in ways]
    sentences, tokens = map(int, printed(PAGE, r"(\d+) sentences, (\d+) tokens\."))
    assert tokens > 10 * sentences
    said(PAGE, "a mean over all tokens dilutes an error there")
    once, twice = map(float, printed(PAGE, r"Floor (\S+), twice (\S+)\. Merged"))
    assert once == max(harmless)
    assert abs(twice - 2 * once) < 1.5e-4  # the floor is rounded, and twice it is not its double
    merged = apart("merged, rounded, saved, loaded")
    times = float(merged[0]) / (twice / 2)  # twice: a digit more
    assert times < 2 and merged[2] == "24" and float(merged[1]) > 1
    said(PAGE, f"a mean divergence of {merged[0]} nats a token, {times:.1f} times the floor of {once}; "
               "none of the 24 grades changes: accepted")  # fmt: skip
    said(PAGE, f"Merged and rounded to bfloat16, ours has {times:.1f} times the floor")
    nf4, none, control = (apart(way) for way in ("base in NF4, adapter beside", "no adapter at all",
                                                 "control: bare base, NF4 against float32"))  # fmt: skip
    assert round(float(nf4[0]) / once, -2) == 200 < float(none[0]) / once
    said(PAGE, f"the mean divergence is {nf4[0]} nats, two hundred times the floor: rejected")
    said(PAGE, f"bare, this base is itself {control[0]} nats from the one in float32")
    said(PAGE, f"{nf4[2]} of 24 sentences kept their grade")
    assert 0.9 < float(control[0]) / float(nf4[0]) < 1.1
    assert printed("07_quantization", r"the first row of the file is the model's: (True)")
    said("07_quantization", "## 6 · A model that was rounded before")
    said("07_quantization", "the fp32 weights that we load are already values of Q4_1")
    said(PAGE, f"to Q4_1 (07_quantization, section 6): {nf4[0]} says nothing of NF4 in general")
    beside, merged = (float(*printed("08_qlora", rf"(?m)^{way}\s+([\d.]+)"))
                      for way in ("adapter beside the base", "merged into the original weights"))  # fmt: skip
    assert merged > beside
    said("08_qlora", "## 7 · Merging into four bits")
    said(PAGE, "Merged into the original weights afterwards, it moves again (08_qlora, section 7)")


def test_a_base_on_the_grid_of_bfloat16():
    (base,) = printed("06_lora", r"base rounded to bfloat16\s+([\d.]+)")
    (merged,) = printed("06_lora", r"merged, bfloat16 base\s+([\d.]+)")
    assert round(float(merged) / float(base)) == 12
    said(PAGE, "merging into a base in bfloat16 moved the logits twelve times as far as rounding alone")
    W, A, B = (torch.randn(*shape) for shape in ((40, 30), (4, 30), (40, 4)))
    W, B = W.bfloat16(), B / 1000  # an update that is small beside its weights
    once = MERGE.reference(W, A, B, 8.0)
    assert torch.equal(once, MERGE.reference(W.float(), A, B, 8.0).bfloat16()) and (once == W).float().mean() > 0.2
    said(PAGE, "A model released in bfloat16 is that case, even loaded in float32")
    way = apart("merged into the bfloat16 base, against the adapter beside it")
    (twice,) = map(float, printed(PAGE, r"Floor \S+, twice (\S+)\. Merged"))
    times = float(way[0]) / (twice / 2)
    assert times < 2 and way[2] == "23"
    said(PAGE, f"so the table rounds it first: {times:.1f} times the floor and one changed grade, accepted as well")
    (here,) = map(int, printed(PAGE, r"Merged into the bfloat16 base, (\d+)% of the entries stay as they were"))
    (there,) = map(int, printed("06_lora", r"(\d+)% of the entries stay"))
    assert here < there / 2  # an entry stays where the update is below half a step of its weight
    said(PAGE, f"{here} % of the entries stay as they were, in 06_lora {there} %: our update is larger")


def test_this_run_of_the_file():
    printed(PAGE, r"read back, the logits differ by (0)\n")
    layers = {
        layer: tuple(map(float, printed(PAGE, rf"(?m)^{layer}\s+([\d.e+-]+)\s+{mistake}\s+(\d\.\d\d)$")))
        for layer, mistake in (
            ("film, query", "rows of B as in transformers"), ("film, value", "rows of B moved as well"),
            ("sums, query", "alpha 8, as in its own settings"),
        )
    }  # fmt: skip
    assert max(ours for ours, _ in layers.values()) < 1e-6
    said(PAGE, "our layers are off by less than a millionth of what the adapter adds")
    rows, moved, alpha = (wrong for _, wrong in layers.values())
    assert rows > 1 < moved and alpha == round(1 - 8**-0.5, 2)
    said(PAGE, f"the layer is off by {rows:.2f} times the update, worse than no adapter")
    said(PAGE, "With alpha 8 two thirds of the update are missing")
    (stored,) = printed(PAGE, r"film 16, sums (\d+\.\d\d)")
    assert float(stored) == round(8 * 8**0.5, 2)
    said(PAGE, f"our alpha is 8, but the file must say {stored}")


def test_llama_cpp_s_own_answers(root):
    found = json.loads((root / "tests/fixtures/llama_cpp.json").read_text())["apart"]
    base, beside, merged, half, *_, rows, alpha, none = (mean for mean, _ in found.values())
    assert max(base, beside, merged) < 1e-10
    said(PAGE, "With a right file its mean divergence from transformers is below 1e-10 nats a token; "
               f"merged into bfloat16 it is {half}")  # fmt: skip
    harm = f"cost {rows} nats, alpha as in its settings {alpha}, and no adapter at all {none}"
    said(PAGE, f"Rows of $B$ as in transformers {harm}")


def test_this_run_of_the_batch():
    gap, largest = printed(PAGE, r"by its own adapter: (\S+) nats a token from that adapter alone, at most (\S+)")
    wrong, floor = printed(PAGE, r"all rows by film: (\S+), at most \S+; the floor is (\S+)")
    assert float(gap) == float(largest) == 0 < float(floor) < float(wrong)
    said(PAGE, f"Each row gets its own adapter's answer, {gap} nats a token from that adapter alone: accepted")
    said(PAGE, f"With film for all rows it would be {wrong} nats")
    times, filled, tokens = printed(
        PAGE, r"switching takes (\d+\.\d) times as long; (\d+) tokens, (\d+) without padding"
    )
    assert float(times) > 1.2
    assert int(filled) > int(tokens)
    said(PAGE, f"one batch is {times} times as fast as six calls in this run, and not six: the arithmetic is the same, "
               "padding included")  # fmt: skip
    said(PAGE, f"here {times} times as fast as switching")


def test_this_run_of_the_combination():
    film, sums, both = (right(name) for name in ("film", "sums", "both"))
    said(PAGE, f"both gets {both[0]} of 24 grades and {both[1]} of 40 sums right; film alone gets {film[0]} grades, "
               f"sums alone {sums[1]} sums")  # fmt: skip
    (share,) = printed(PAGE, r"cross terms: (\d+\.\d\d) times as large as the sum")
    said(PAGE, f"the cross terms are {share} times as large as the sum")
    assert printed(PAGE, r"film \+ sums: rank 16 misses (\S+)") == ("0.00",)
    (missed,) = printed(PAGE, r"TIES, a fifth kept: rank 16 misses (\d\.\d\d)")
    said(PAGE, f"rank 16 holds the whole sum of two adapters of rank 8, and misses {missed} of TIES' update")


def test_this_run_s_costs():
    number = r"\s+([\d.]+)"
    three, merged, nf4 = (
        tuple(map(float, printed(PAGE, rf"(?m)^{way}{4 * number}")))
        for way in ("three beside float32, one batch", "merged into bfloat16", "film beside NF4")
    )
    assert all(0 <= row[1] - row[0] < 0.15 and row[2] == row[3] for row in (three, merged, nf4))
    (whole,) = printed(PAGE, rf"(?m)^the same as GGUF{number}{number}(?:\s+–){{4}}$")[1:]
    said(PAGE, "our merged GGUF was not run")
    assert 1 < float(whole) - merged[0] < 3
    adapter = 4 * results.read("ship").parameters("film") / 1e6
    assert abs(three[0] - adapter) < 0.05
    said(PAGE, f"A merged model has {merged[0] / adapter:.0f} times the bytes of an adapter")
    beside = (three[2] + 96 * adapter) / 1e3
    said(PAGE, f"a hundred customers need {beside:.1f} GB beside one float32 base, and {merged[0] / 10:.0f} GB merged")
    assert 0.3 < nf4[2] / (three[2] - 4 * adapter) < 0.34
    said(PAGE, "NF4 holds a third of float32's bytes")


def test_what_the_open_exercise_has_to_beat():
    own, plain, whole = [], [], []
    for i in range(40):
        updates, inputs, r = BLEND.secret(Draw(b"exercise", str(i)))
        for found, (A, B) in ((own, BLEND.reference(updates, inputs, r)), (plain, pissa(sum(updates), r, 1.0))):
            found.append(max(errors(B @ A, updates, inputs)))
        whole.append(max(errors(sum(updates), updates, inputs)))
        assert max(errors(torch.zeros_like(updates[0]), updates, inputs)) == 1
    said(PAGE, "$M=0$ has 1")
    assert f"{median(whole):.1f}" == f"{median(plain):.1f}"
    said(PAGE, f"$D_1+D_2$ itself {median(whole):.1f}, and its best matrix of rank $r$ {median(plain):.1f} as well")
    said(PAGE, f"the course's answer {median(own):.2f} ({min(own):.2f} to {max(own):.2f})")
    assert (CASES, Limits().exercise) == (8, 10)
    said(PAGE, "Grading allows 10 seconds for its eight cases together")


def test_the_stored_runs():
    runs = results.read("ship")
    assert [len(runs.seeds(arm)) for arm in ("film", "sums")] == [3, 3] and len(runs.scores("film")[0]) == 240
    assert (merged := str(runs.difference("film, merged first", "film"))).startswith("equal")
    said(PAGE, f"Merged, accuracy stays: {merged}.")
    film = runs.difference("film", "film, released")
    assert film.verdict == "no clear difference"
    said(PAGE, f"film's own gain is uncertain {film.in_points().split(' ', 1)[1]}")
    said(PAGE, f"in stored runs equal accuracy {merged.removeprefix('equal ')}")
    said("data/evidence/ship.md", "the largest of three harmless changes")

    def of(arm: str, key: str) -> list[float]:
        return [float(run.more[key]) for run in runs.arms[f"film, {arm}"]]

    times = [x / floor for x, floor in zip(of("merged first", "nats"), of("merged first", "floor"), strict=True)]
    assert max(times) < 1 and len(times) == 3
    said(PAGE, f"Three stored adapters (data/evidence/ship.csv) had {min(times):.1f} to {max(times):.1f} times theirs")
    put, trained = runs.difference("film, beside NF4", "film"), runs.difference("film, trained on NF4", "film")
    assert not put.non_inferior and not trained.non_inferior and trained.low < -0.03
    assert put.verdict == trained.verdict == "no clear difference"
    said(PAGE, f"Put beside NF4 or trained there, film shows {put.verdict}, but a loss of more than "
               "3 points is not excluded")  # fmt: skip
    pays = runs.difference("film, trained on NF4", "film, beside NF4")
    assert pays.verdict == "no clear difference" and pays.value > 0
    ends = pays.in_points().split(" ", 1)[1]
    said(PAGE, f"Nor is there one between the two {ends}: these runs do not show that training there pays")
    said(PAGE, "Trained there, its accuracy shows no clear difference to float32, nor to putting it there")
    far, near = of("trained on NF4", "nats"), of("beside NF4", "nats")
    assert min(far) > max(near) and min(far) > 2 * max(of("trained on NF4", "floor"))
    said(PAGE, "An adapter trained there is no copy")
    kept = {task: runs.difference(f"{task}, sum", task) for task in ("film", "sums")}
    said(PAGE, f"The sum keeps film's accuracy, {kept['film']}")
    said(PAGE, "The sum keeps film's accuracy (within 3 points)")
    said(PAGE, f"On sums it shows {kept['sums'].verdict}")
    factors, of_film = (runs.difference(f"{task}, factors added", f"{task}, sum") for task in ("sums", "film"))
    assert factors.non_inferior and factors.verdict == of_film.verdict == "no clear difference"
    on_sums = factors.in_points().split(" (")[1].rstrip(")")
    said(PAGE, "On sums, a loss of more than 3 points by adding factors is unlikely "
               f"({on_sums} against the sum)")  # fmt: skip
    said(PAGE, "Added factors have cross terms, whose harm these runs do not show")
    alike, cut = (runs.difference(f"{task}, TIES at rank 16", f"{task}, TIES") for task in ("film", "sums"))
    said(PAGE, f"TIES cut to rank 16 is equal to TIES for practical purposes {str(cut).partition('purposes ')[2]}")
    ways = ("sum", "factors added", "TIES", "TIES at rank 16")
    for task in ("film", "sums"):  # the picture's caption: no way leads in all three seeds
        seeds = list(zip(*(runs.seeds(f"{task}, {way}") for way in ways), strict=True))
        assert all(any(seed[i] < max(seed) for seed in seeds) for i in range(len(ways)))
    assert kept["film"].verdict == cut.verdict == alike.verdict == "equal for practical purposes"


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


def test_peft_takes_the_scale_of_the_adapter_named_first(tmp_path):
    model = tiny.decoder("llama", vocab_size=300)
    for name, rslora in (("film", False), ("sums", True)):
        lora = LoRA(r=8, alpha=8, rslora=rslora, targets=("q_proj",))
        nonzero(lora.attach(model, name), scale=0.01)
        lora.save(model, tmp_path / name, name)
    theirs = peft.PeftModel.from_pretrained(tiny.decoder("llama", vocab_size=300), tmp_path / "film", "film")
    theirs.load_adapter(tmp_path / "sums", "sums")
    for first, second, scale in (("film", "sums", 1), ("sums", "film", 4)):
        theirs.add_weighted_adapter([first, second], [1.0, 1.0], first + second, combination_type="cat")
        scales = [m.scaling[first + second] for m in theirs.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
        assert scales and set(scales) == {scale}
    said(PAGE, "peft 0.21.2 has three traps")
    told = " ".join(peft.LoraModel.add_weighted_adapter.__doc__.split())
    assert told.count("rough") == 1 and "`linear` is efficient but a very rough approximation" in told
    said(PAGE, "the documentation calls only linear a very rough approximation")
    said(PAGE, r"Name sums first, and both is $\sqrt{16}=4$ times too large")

r"""What 12 says of its own run."""

from __future__ import annotations

import json
import re
from statistics import median

import tiny
import torch
from attached import nonzero
from finding import printed, read, said, tenths
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from coursekit.checks.draw import Draw
from coursekit.checks.ship_blend import BLEND, errors
from coursekit.experiments import results
from coursekit.grading.ids import CASES
from coursekit.grading.limits import Limits
from coursekit.methods import LoRA, update_of
from coursekit.methods.lora_starts import pissa

PAGE = "12_ship_it"


def right(adapter: str) -> tuple[int, int]:
    r"""Right film grades and right sums, of 40 each."""
    return tuple(map(int, printed(PAGE, rf"(?m)^{adapter}\s+(\d+) of 40\s+(\d+) of 40$")))


def apart(way: str) -> tuple[str, str, str, str]:
    r"""Mean divergence and largest difference, as printed; of 40 sentences how many keep their grade, and are right."""
    return printed(PAGE, rf"(?m)^{way}\s+(<?[\d.e+-]+)\s+([\d.e+-]+)\s+(\d+) of 40\s+(\d+) of 40$")


def test_this_run_of_the_two_adapters():
    before, film, sums = right("base model"), right("film"), right("sums")
    said(PAGE, f"film grades go from {before[0]} to {film[0]} of 40, and sums from {before[1]} to {sums[1]}")
    (constant,) = printed(PAGE, r"constant answer has (\d+) of 40 grades")
    said(PAGE, f"constant answer has {constant} of the grades")
    assert film[0] > before[0] and sums[1] > before[1]
    said(PAGE, f"with the film adapter {film[1]} of the sums are right")


def test_this_run_of_the_16_and_4_bits():
    ways = ("weights in bfloat16, adapter beside", "the same, attention computed in another way",
            "products alone in bfloat16")  # fmt: skip
    one, two, three = (apart(f"harmless: {way}")[0] for way in ways)
    floor = max(map(float, (one, two, three)))
    once, twice = map(float, printed(PAGE, r"Floor (\S+), twice (\S+)\.\n?"))
    assert once == floor and abs(twice - 2 * floor) < 1.5e-4  # the floor is rounded, and twice it is not its double
    there, rounded = apart("merged in bfloat16"), apart("merged in float32, rounded, saved, loaded")
    assert float(there[0]) < 2 * floor and float(rounded[0]) < 2 * floor
    low, high = printed(PAGE, r"saved and loaded: (\S+) to (\S+) times the floor")
    assert float(low) <= float(rounded[0]) / (twice / 2) <= float(high) < 2  # twice: a digit more
    times, beside = f"{low} to {high} times the floor", apart(f"harmless: {ways[0]}")
    assert float(low) > 1 and float(high) <= 1.2 and float(there[0]) <= float(beside[0]) == floor
    said(PAGE, "Little further, or not at all: merged in float32, rounded, saved and loaded, it has a mean divergence "
               f"of {rounded[0]} nats a token, merged in bfloat16 {there[0]}; the adapter beside has {beside[0]}, as "
               "does the floor")  # fmt: skip
    said(PAGE, f"at {times} (95 %, sentences drawn again): accepted, and none of the 40 grades changes")
    said(PAGE, f"a model merged and rounded to bfloat16 had {times} of {floor} nats a token")
    assert rounded[2] == there[2] == "40"
    exact, nf4, none = (
        apart(way) for way in ("merged in float32", "base in NF4, adapter beside", "no adapter at all")
    )
    assert exact[0] == "<1e-6"
    said(PAGE, "Unrounded, merging moves less than a millionth of a nat")
    said(PAGE, f"here rounded to bfloat16 (alone {three})")
    assert round(float(nf4[0]) / floor, -2) == 200 < float(none[0]) / floor
    said(PAGE, f"the mean divergence is {nf4[0]} nats, two hundred times the floor")
    kept = f"{nf4[2]} of 40 sentences keep their grade; without the adapter {none[2]} of 40"
    said(PAGE, f"by the bar, another model. {kept}")
    control = apart("control: bare base, NF4 against float32")
    said(PAGE, f"bare, this base is itself {control[0]} nats from the one in float32, and keeps {control[2]} of 40")
    assert exact[3] == str(right("film")[0]) and 0 < int(exact[3]) - int(nf4[3]) < 4
    said(PAGE, f"Beside NF4 {nf4[3]} of 40 grades are right, in float32 {exact[3]}, on the bare NF4 base {control[3]}")
    said(PAGE, f"Beside NF4 only {nf4[2]} of 40 sentences kept their grade; the bare base had moved nearly as far")
    assert 0.9 < float(control[0]) / float(nf4[0]) < 1


def test_what_06_measured_of_merging():
    (base,) = printed("06_lora", r"base rounded to bfloat16\s+([\d.]+)")
    (merged,) = printed("06_lora", r"merged, bfloat16 base\s+([\d.]+)")
    assert round(float(merged) / float(base)) == 12
    said(PAGE, f"merging in bfloat16 twelve times as far as rounding the base ({merged} and {base})")
    blocks = results.read("ship").parameters("film") // (8 * (3 * 576 + 192))  # query and value, rank 8
    said(PAGE, f"LoRA on all {7 * blocks} matrices, here {2 * blocks}; five logits, here all words")
    said("06_lora", f"SmolLM2's {7 * blocks} matrices in float32 and rounded to bfloat16, all products in float32")


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
    said(PAGE, "Our files are off by less than a millionth")
    rows, moved, alpha = (wrong for _, wrong in layers.values())
    assert rows > 1 and alpha == round(1 - 8**-0.5, 2)
    said(PAGE, f"{rows:.2f} times the update off, for this layer worse than no adapter")
    said(PAGE, f"whoever moves its rows as well is {moved:.2f} off")
    said(PAGE, f"With alpha 8 the layer is {alpha} off: two thirds of the update are missing")
    (stored,) = printed(PAGE, r"film 16, sums (\d+\.\d\d)")
    assert float(stored) == round(8 * 8**0.5, 2)
    said(PAGE, f"our alpha is 8, but the file must say {stored}")


def test_llama_cpp_s_own_answers(root):
    found = json.loads((root / "tests/fixtures/llama_cpp.json").read_text())["apart"]
    base, beside, merged, half, four, beside_four, rows, alpha, none = (mean for mean, _ in found.values())
    assert max(base, beside, merged) < 1e-10
    said(PAGE, "right, beside a float32 base or merged: below 1e-10")
    of_four = f"beside the Q4_1 base {beside_four:.1g}, where that base alone has {four:.1g}"
    said(PAGE, f"merged in bfloat16 {half:.1g}; {of_four}")
    said(PAGE, f"only the queries: {rows}; alpha as in its settings: {alpha}; no adapter: {none}")
    said(PAGE, f"In llama.cpp wrong rows cost {rows} nats a token, a wrong scale {alpha}, no adapter {none}")


def test_this_run_of_the_batch():
    gap, wrong = printed(PAGE, r"own adapter alone: ([\d.e+-]+) nats; all rows by film: (\d+\.\d) nats")
    assert float(gap) == 0 < float(wrong)
    said(PAGE, "each row is bit for bit its own adapter's answer")
    times, filled, tokens = printed(
        PAGE, r"one batch / switching: (\d+\.\d) \((\d+) tokens, (\d+) without padding\)"
    )
    assert float(times) > 1.2
    said(PAGE, f"the padding of the batch, {int(filled) - int(tokens)} of {filled} tokens")
    said(PAGE, f"One batch brings {times} times as many tokens a second in this run, in two turns")
    said(PAGE, f"here at {times} times the speed of switching with the same padding")


def test_this_run_of_the_combinations():
    film, sums = right("film")[0], right("sums")[1]
    ways = ("film \\+ sums", "factors added", "TIES, a fifth kept", "DARE, a fifth kept")
    (grades, right_sums), *others = map(right, ways)
    said(PAGE, f"The plain sum, in this run: {grades} film grades and {right_sums} sums of 40")
    for name, (grades, right_sums) in zip(("The factors added have", "TIES has", "DARE"), others, strict=True):
        said(PAGE, f"{name} {grades} and {right_sums}")
    assert film - 1 <= right(ways[0])[0] and sums - 3 <= right(ways[0])[1]
    said(PAGE, "the plain sum kept nearly all of both tasks")
    assert [right(ways[0])[1] - right(way)[1] for way in ways[1:]] == [3, 5, 3]
    said(PAGE, "Three to five fewer right answers to the same 40 sums do not show that they are worse")
    said(PAGE, f"the specialists have {film} and {sums}")
    two, share = printed(PAGE, r"two updates (\S+), cross terms and sum \S+; cross terms / sum: (\d+\.\d\d)")
    assert abs(float(two)) < 0.1
    said(PAGE, f"they are {share} times as large as the sum")
    said(PAGE, f"The two updates are at right angles (cosine {two})")
    said(PAGE, f"Factors have cross terms, in this run {share} times as large as the sum")


def test_this_run_of_the_rank():
    (missed,) = printed(PAGE, r"rank 16 misses (\d\.\d\d) of TIES' update")
    said(PAGE, f"misses {missed} of the update")
    grades, right_sums = right("TIES, cut to rank 16")
    said(PAGE, f"and has {grades} and {right_sums}")


def test_what_the_open_exercise_has_to_beat():
    own, plain, whole, cosines = [], [], [], []
    for i in range(40):
        updates, inputs, r = BLEND.secret(Draw(b"exercise", str(i)))
        for found, (A, B) in ((own, BLEND.reference(updates, inputs, r)), (plain, pissa(sum(updates), r, 1.0))):
            found.append(max(errors(B @ A, updates, inputs)))
        whole.append(max(errors(sum(updates), updates, inputs)))
        cosines.append(float(torch.cosine_similarity(*(D.flatten() for D in updates), dim=0).abs()))
        assert max(errors(torch.zeros_like(updates[0]), updates, inputs)) == 1
    said(PAGE, f"section 7's random ones nearly are ({median(cosines):.2f}, median of 40 pairs), and their sum fails")
    said(PAGE, "$M=0$ has 1")
    assert f"{median(whole):.1f}" == f"{median(plain):.1f}"
    said(PAGE, f"$D_1+D_2$ itself {median(whole):.1f}, and its best matrix of rank $r$ {median(plain):.1f} as well")
    said(PAGE, f"the course's answer {median(own):.2f} ({min(own):.2f} to {max(own):.2f})")
    assert (CASES, Limits().exercise) == (8, 10)
    said(PAGE, "Grading allows 10 seconds for its eight cases together")


def test_the_stored_runs():
    runs = results.read("ship")
    assert [len(runs.seeds(arm)) for arm in ("film", "sums")] == [3, 3] and len(runs.scores("film")[0]) == 240
    first, there = (str(runs.difference(f"film, merged {how}", "film")) for how in ("first", "there"))
    assert first == there
    said(PAGE, f"In either order the accuracy on 240 sentences is {first}")
    nats, floors = ([[float(run.more[key]) for run in runs.arms[f"film, merged {how}"]] for how in ("first", "there")]
                    for key in ("nats", "floor"))  # fmt: skip
    times = [[x / floor for x, floor in zip(*both, strict=True)] for both in zip(nats, floors, strict=True)]
    said(PAGE, "merged and then rounded, had {:.1f}, {:.1f} and {:.1f} times".format(*times[0])
               + " floors of {:.1g}, {:.1g} and {:.1g}".format(*floors[0]))  # fmt: skip
    said(PAGE, "rounded the update, {:.1f}, {:.1f} and {:.1f} times".format(*times[1]))
    said(PAGE, f"three stored adapters {min(times[0]):.1f} to {max(times[0]):.1f} times theirs")
    said(PAGE, "about the floor, never twice; neither order is nearer for all three")
    assert max(map(max, times)) < 2 and len({one < other for one, other in zip(*nats, strict=True)}) == 2
    beside = tenths(runs.difference("film, beside NF4", "film"))
    said(PAGE, f"nor can the three stored adapters on 240: {beside}")
    assert len(runs.scores("sums")[0]) == 130
    ties, both = (tenths(runs.difference(f"sums, {a}", b)) for a, b in (("TIES", "sums, sum"), ("sum", "sums")))
    assert both.startswith("no clear difference")
    both = both.removeprefix("no clear difference").replace(" points", "")
    said(PAGE, f"of TIES against the sum there is {ties}, nor of the sum against the sums' own adapter{both}")
    said("data/evidence/ship.md", "`merged there` is of a package that rounded the update before it added it")


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

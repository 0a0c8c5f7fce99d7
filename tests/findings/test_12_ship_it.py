r"""What 12 says of its own run."""

from __future__ import annotations

import json
from statistics import median

import torch
from finding import printed, said, tenths

from coursekit.checks.draw import Draw
from coursekit.checks.ship_blend import BLEND, errors
from coursekit.experiments import results
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
    said(PAGE, f"the film adapter leaves {film[1]} of the sums right")


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
    times = f"{low} to {high} times the floor of {floor}"
    said(PAGE, f"saved and reloaded model has a mean divergence of {rounded[0]} nats a token, {times}")
    assert float(low) > 1 and float(high) <= 1.2
    said(PAGE, "Rounded at the end it moves little further than the floor, not twice as far: accepted")
    said(PAGE, f"a model merged and rounded to bfloat16 had {times} nats a token")
    said(PAGE, f"Merged in bfloat16 it is {there[0]}, no further than the floor")
    assert rounded[2] == there[2] == "40" and float(there[0]) <= floor
    exact, nf4, none = (
        apart(way) for way in ("merged in float32", "base in NF4, adapter beside", "no adapter at all")
    )
    assert exact[0] == "<1e-6"
    said(PAGE, "In float32 merging moves nothing that matters (below a millionth of a nat)")
    assert round(float(nf4[0]) / floor, -2) == 200 < float(none[0]) / floor
    said(PAGE, f"the mean divergence is {nf4[0]} nats, two hundred times the floor")
    kept = f"{nf4[2]} of 40 sentences keep their grade; without the adapter {none[2]} of 40"
    said(PAGE, f"by the bar, another model. {kept}")
    control = apart("control: bare base, NF4 against float32")
    said(PAGE, f"the bare base in NF4 is {control[0]} nats from the bare base in float32, and keeps {control[2]} of 40")
    assert exact[3] == str(right("film")[0]) and 0 < int(exact[3]) - int(nf4[3]) < 4
    said(PAGE, f"Beside NF4 {nf4[3]} of 40 are right, in float32 {exact[3]}, and on the bare NF4 base {control[3]}")
    said(PAGE, f"{nf4[3]} were right, and {exact[3]} before, no difference that 40 sentences can show")
    said(PAGE, f"Beside NF4 only {nf4[2]} of 40 sentences kept their grade")


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
    said(PAGE, f"{rows:.2f} times the update off, worse than no adapter")
    said(PAGE, f"whoever moves its rows as well is {moved:.2f} off")
    said(PAGE, f"With alpha 8 the layer is {alpha} off: two thirds of the update are missing")
    (stored,) = printed(PAGE, r"film 16, sums (\d+\.\d\d)")
    assert float(stored) == round(8 * 8**0.5, 2)
    said(PAGE, f"the method's alpha is 8 and the file's {stored}")


def test_llama_cpp_s_own_answers(root):
    found = json.loads((root / "tests/fixtures/llama_cpp.json").read_text())["apart"]
    base, beside, merged = (found[way][1] for way in ("base", "base, adapter beside", "merged"))
    assert max(beside, merged) < 1.5 * base
    said(PAGE, f"it answers within {max(beside, merged):.4f} nats of transformers, as near as with no adapter at all")


def test_this_run_of_the_batch():
    gap, wrong = printed(PAGE, r"own adapter alone: ([\d.e+-]+) nats; all rows by film: (\d+\.\d) nats")
    assert float(gap) == 0 < float(wrong)
    said(PAGE, "each row is bit for bit the answer of its own adapter alone")
    said(PAGE, f"all rows by film would have been {wrong} nats off")
    times, filled, tokens = printed(
        PAGE, r"one batch / switching: (\d+\.\d) \((\d+) tokens, (\d+) without padding\)"
    )
    (share,) = printed(PAGE, r"one batch / film for all rows: (\d\.\d\d)")
    said(PAGE, f"{share} times as many as with film for all rows; two turns are noisy")
    assert float(times) > 1.2
    said(PAGE, f"the padding of the batch, {int(filled) - int(tokens)} of {filled} tokens")
    said(PAGE, f"One batch brings {times} times as many tokens a second in this run, in two turns")
    said(PAGE, f"here at {times} times the speed of switching with the same padding")


def test_this_run_of_the_combinations():
    film, sums = right("film")[0], right("sums")[1]
    ways = ("film \\+ sums", "factors added", "TIES, a fifth kept", "DARE, a fifth kept")
    (grades, right_sums), *others = map(right, ways)
    said(PAGE, f"in this run {grades} film grades and {right_sums} sums of 40")
    for name, (grades, right_sums) in zip(("The factors added have", "TIES has", "DARE"), others, strict=True):
        said(PAGE, f"{name} {grades} and {right_sums}")
    assert film - 1 <= right(ways[0])[0] and sums - 3 <= right(ways[0])[1]
    said(PAGE, "The sum keeps nearly all of both")
    assert [right(ways[0])[1] - right(way)[1] for way in ways[1:]] == [3, 5, 3]
    said(PAGE, "Three to five fewer right sums, of the same 40, do not show that they are worse")
    said(PAGE, f"the specialists have {film} and {sums}")
    two, along, share = printed(PAGE, r"two updates (\S+), cross terms and sum (\S+); cross terms / sum: (\d+\.\d\d)")
    assert abs(float(two)) < 0.1 and abs(float(along)) < 0.1
    said(PAGE, f"{share} times as large as the sum, at right angles to it (cosine {along})".replace("-", "−"))
    said(PAGE, f"nearly at right angles as well (cosine {two})")
    said(PAGE, f"Factors have cross terms, {share} times as large as the sum in this run")


def test_this_run_of_the_rank():
    (missed,) = printed(PAGE, r"rank 16 misses (\d\.\d\d) of TIES' update")
    said(PAGE, f"misses {missed} of the update")
    grades, right_sums = right("TIES, cut to rank 16")
    said(PAGE, f"and has {grades} and {right_sums}")


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


def test_the_stored_runs():
    runs = results.read("ship")
    assert [len(runs.seeds(arm)) for arm in ("film", "sums")] == [3, 3] and len(runs.scores("film")[0]) == 240
    first, there = (str(runs.difference(f"film, merged {how}", "film")) for how in ("first", "there"))
    assert first == there
    said(PAGE, f"merged and rounded, in either order, the film adapter is {first}")
    beside, trained = (tenths(runs.difference(f"film, {how} NF4", "film")) for how in ("beside", "trained on"))
    said(PAGE, f"Beside NF4 there is {beside}, and trained beside it, as QLoRA does, {trained}")
    gained = [one - base for one, base in zip(runs.seeds("film"), runs.seeds("film, released"), strict=True)]
    assert sum(gain < 0.06 for gain in gained) == 1
    said(PAGE, "one of the three adapters had learned little")
    assert len(runs.scores("sums")[0]) == 130
    ties, both = (tenths(runs.difference(f"sums, {a}", b)) for a, b in (("TIES", "sums, sum"), ("sum", "sums")))
    said(PAGE, f"of TIES against the sum there is {ties}, and of the sum against the sums' own adapter {both}")

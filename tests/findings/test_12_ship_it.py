r"""What 12 says of its own run."""

from __future__ import annotations

from statistics import median

import torch
from finding import printed, said

from coursekit.checks.draw import Draw
from coursekit.checks.ship_blend import BLEND, errors
from coursekit.methods.lora_starts import pissa

PAGE = "12_ship_it"


def right(adapter: str) -> tuple[float, float]:
    r"""Shares of right film grades and of right sums."""
    return tuple(map(float, printed(PAGE, rf"(?m)^{adapter}\s+(\d\.\d\d)\s+(\d\.\d\d)$")))


def apart(way: str) -> tuple[str, str]:
    r"""The largest difference, as printed, and how many of 16 sentences keep their grade."""
    return printed(PAGE, rf"(?m)^{way}\s+([\d.e+-]+)\s+(\d+) of 16$")


def test_this_run_of_the_two_adapters():
    before, film, sums = right("SmolLM2 as it is"), right("film"), right("sums")
    said(
        PAGE,
        f"film grades go from {before[0]:.2f} to {film[0]:.2f}, and sums from {before[1]:.2f} to {sums[1]:.2f}",
    )
    (constant,) = printed(PAGE, r"constant answer (\d\.\d\d)")
    said(PAGE, f"constant answer has {constant}")
    assert film[0] > before[0] and sums[1] > before[1]
    said(PAGE, f"the film adapter leaves {film[1]:.2f} of the sums right")


def test_this_run_of_the_16_and_4_bits():
    floor, there, merged = (
        apart(f"bfloat16, {way}")
        for way in ("beside: the noise floor", "merged in bfloat16", "merged in float32, saved, loaded")
    )
    said(PAGE, f"noise floor is {floor[0]} nats here, and the merged, saved and reloaded model is {merged[0]} away")
    said(PAGE, f"Merged in bfloat16 it is {there[0]} away")
    assert float(merged[0]) <= 1.5 * float(floor[0]), "the yardstick of the text"
    exact, nf4, none = (apart(way) for way in ("float32, merged", "base in NF4, beside", "no adapter at all"))
    said(PAGE, f"In float32 merging moves nothing that matters ({exact[0]} nats)")
    said(
        PAGE,
        f"base in NF4 the largest difference is {nf4[0]} nats, and {nf4[1]} of 16 sentences keep their grade",
    )
    said(PAGE, f"without the adapter it is {none[0]}, and {none[1]} of 16")
    control = apart("control: bare base, NF4 against float32")
    said(PAGE, f"the bare base in NF4 is {control[0]} nats from the bare base in float32, and keeps {control[1]} of 16")
    adapter, model = printed(PAGE, r"on disk: adapter (\d\.\d) MB, merged model (\d+) MB")
    said(PAGE, f"The adapter takes {adapter} MB on the disk, the merged model {model}")


def test_this_run_of_the_file():
    printed(PAGE, r"read back, the logits differ by (0)\n")
    wrong, right_order = printed(
        PAGE, r"two files differs by ([\d.e+-]+), with its rows in our order by ([\d.e+-]+)"
    )
    assert float(right_order) < 1e-3 < float(wrong)
    said(PAGE, f"the layer is {wrong} off, and {right_order} with its rows in our order")
    (alpha,) = printed(PAGE, r"film 16, sums (\d+\.\d\d)")
    assert float(alpha) == round(8 * 8**0.5, 2)
    said(PAGE, f"the method's alpha is 8 and the file's {alpha}")


def test_this_run_of_the_batch():
    gap, wrong = printed(PAGE, r"own adapter alone: ([\d.e+-]+) nats; all rows by film: (\d+\.\d) nats")
    assert float(gap) < 1e-3 < float(wrong)
    said(PAGE, f"differs from the answer of its own adapter alone by at most {gap} nats")
    said(PAGE, f"all rows by film would have been {wrong} off")
    (times,) = printed(PAGE, r"one batch / switching: (\d+\.\d)")
    assert float(times) > 1.2
    said(PAGE, f"{times} times as many tokens a second")


def test_this_run_of_the_combinations():
    film, sums = right("film")[0], right("sums")[1]
    ways = ("film \\+ sums", "half of each", "factors added", "TIES, a fifth kept", "DARE, a fifth kept")
    said_of = ("the sum", "half of each", "the factors added", "TIES", "DARE")
    for way, name in zip(ways, said_of, strict=True):
        grades, right_sums = right(way)
        said(PAGE, f"{name} {grades:.2f} and {right_sums:.2f}")
    assert right(ways[2])[1] < right(ways[0])[1] - 0.2 and right(ways[3])[1] < right(ways[0])[1] - 0.1
    said(PAGE, f"the specialists have {film:.2f} and {sums:.2f}")
    lost = (sums - right(ways[2])[1]) / (sums - right("SmolLM2 as it is")[1])
    assert abs(lost - 2 / 3) < 0.05
    said(PAGE, "takes back two thirds of what `sums` had gained".replace("`", ""))
    (share,) = printed(PAGE, r"cross terms are (\d+\.\d\d) times as large")
    said(PAGE, f"the cross terms, which nobody trained, are {share} times as large as the sum")


def test_this_run_of_the_rank():
    (missed,) = printed(PAGE, r"rank 16 misses (\d\.\d\d) of TIES' update")
    said(PAGE, f"misses {missed} of TIES' update")
    grades, right_sums = right("TIES, as a LoRA of rank 16")
    said(PAGE, f"and has {grades:.2f} and {right_sums:.2f}")


def test_what_the_open_exercise_has_to_beat():
    own, plain = [], []
    for i in range(40):
        updates, inputs, r = BLEND.secret(Draw(b"exercise", str(i)))
        for found, (A, B) in ((own, BLEND.reference(updates, inputs, r)), (plain, pissa(sum(updates), r, 1.0))):
            found.append(max(errors(B @ A, updates, inputs)))
        assert max(errors(torch.zeros_like(updates[0]), updates, inputs)) == 1
    said(PAGE, "$M=0$ has 1")
    said(PAGE, f"which ignores the inputs, {median(plain):.1f}; the course's answer {median(own):.2f}")

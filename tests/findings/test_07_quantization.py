r"""What notebook 07 says of stored runs."""

from __future__ import annotations

import math

import torch
from finding import printed, said

from coursekit.experiments import results
from coursekit.quantization import code

PAGE = "07_quantization"
FORMATS = results.read("formats")
NAMES = ["int8", "int4", "fp4", "e2m1", "nf4", "int3", "nf3", "nf2"]
#: The table of section 8: one family.
TABLE = FORMATS.differences([f"full, {name}" for name in NAMES], "full")


def signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def test_eight_and_four_bits():
    eight, nf4, int4 = (TABLE[f"full, {name}"] for name in ("int8", "nf4", "int4"))
    assert {d.verdict for d in (eight, nf4, int4)} == {"equal for practical purposes"}
    said(PAGE, f"({signed(eight.value)} points, {signed(eight.low)} to {signed(eight.high)})")
    said(PAGE, f"NF4 {signed(nf4.value)} ({signed(nf4.low)} to {signed(nf4.high)})")
    said(PAGE, f"int4 {signed(int4.value)} ({signed(int4.low)} to {signed(int4.high)})")
    assert min(nf4.low, int4.low) > -0.03
    said(PAGE, "four bits less than the 3 points that we call equal")
    said(PAGE, f"cost a classifier {-100 * nf4.value:.1f} points (NF4)")


def test_fp4_loses_less_than_what_we_call_equal():
    fp4 = TABLE["full, fp4"]
    assert fp4.high < 0 and fp4.verdict == "equal for practical purposes"
    said(
        PAGE,
        f"does lose something, {-100 * fp4.value:.1f} points ({-100 * fp4.high:.1f} to {-100 * fp4.low:.1f})",
    )


def test_nf4_and_int4_are_equal_in_accuracy_and_not_apart_in_perplexity():
    found = FORMATS.difference("full, nf4", "full, int4")
    assert found.verdict == "equal for practical purposes"
    said(
        PAGE, f"NF4 minus int4 is {signed(found.value)} points ({signed(found.low)} to {signed(found.high)})"
    )
    ratio, low, high = printed(PAGE, r"nf4 over int4, same sentences: ([\d.]+) \(([\d.]+) to ([\d.]+)\)")
    said(PAGE, f"NF4's perplexity is {ratio} times int4's ({low} to {high}, section 1): no clear difference")
    assert float(low) < 1 < float(high)


def test_three_bits():
    int3, nf3 = TABLE["full, int3"], TABLE["full, nf3"]
    assert (int3.verdict, nf3.verdict) == ("worse", "no clear difference")
    assert abs(nf3.value - int3.value) < 0.005
    said(
        PAGE,
        f"Three bits cost int3 {-100 * int3.value:.1f} points ({-100 * int3.high:.1f} to {-100 * int3.low:.1f})",
    )


def test_two_bits():
    assert str(TABLE["full, nf2"]) == "worse by 14 points (12 to 17)"
    said(PAGE, "NF2 costs 14 points (12 to 17)")
    said(PAGE, "NF2, the worse of the two, costs the classifier 14 points")


# The notebook's own run ------------------------------------------------------------------------------------


def test_a_real_matrix_does_not_use_the_codes_equally():
    low, high = printed(PAGE, r"'MiniLM, blocks of 64': '(0\.\d+) to (0\.\d+)'")
    said(PAGE, f"the outermost codes for {100 * float(low):.1f} % of its weights each, the commonest one for "
         f"{100 * float(high):.0f} %")  # fmt: skip
    low, high = printed(PAGE, r"'normal, 1 at 1.85': '(0\.\d+) to (0\.\d+)'")
    said(PAGE, f"all levels nearly equally often, {low} to {high}")


def test_errors_of_four_bits():
    int4, _, _, nf4, affine, q4_0 = printed(PAGE, r"MiniLM" + r" +([\d.]+)%" * 6)
    said(PAGE, f"{nf4} % on MiniLM against {int4} % for symmetric int4")
    said(PAGE, f"{affine} % with a zero point, for a sixteenth of a bit more, and {q4_0} % with Q4_0")
    assert float(nf4) < float(affine) < float(q4_0) < float(int4)


def test_nf2_is_a_bad_table_of_two_bits():
    (nf2, zeros), (symmetric, _) = (
        printed(PAGE, rf"{name}: squared error (\d+)%, negative weights at 0 (\d+)%")
        for name in ("nf2", "symmetric")
    )
    said(PAGE, f"its error is {nf2} %; the symmetric table, two bits as well, has {symmetric} %")
    assert abs(float(zeros) - 80) < 5  # four of five
    assert 1.5e6 < float(printed(PAGE, r"symmetric table: perplexity ([\d,]+)")[0].replace(",", "")) < 2.5e6
    assert float(printed(PAGE, r"nf2 +([\d,]+) million")[0].replace(",", "")) > 1000
    table = code("nf2").tolist()
    said(PAGE, f"−1, 0, {table[2]:.2f} and 1: a single level below zero")


def test_the_symmetric_table_is_fitted_to_normal_weights():
    x = torch.randn(2**14, 64, generator=torch.Generator().manual_seed(0))
    absmax, levels = x.abs().amax(1, keepdim=True), torch.tensor([-0.6, -0.2, 0.2, 0.6])
    y, weight = x / absmax, absmax.square().expand_as(x)
    for _ in range(40):
        nearest = torch.bucketize(y, (levels[1:] + levels[:-1]) / 2)
        levels = torch.stack(
            [(weight * y)[nearest == i].sum() / weight[nearest == i].sum() for i in range(4)]
        )
    said(PAGE, f"±{levels[2]:.2f} and ±{levels[3]:.2f}, fitted to normal weights in blocks of 64")


def test_what_fitted_levels_gain():
    (less,) = printed(PAGE, r"with the fitted levels [\d.]+%: -(\d+)%")
    said(PAGE, f"a fitted table has {less} % less error than NF4")
    said(PAGE, f"and fitted levels have {less} % less error")
    (normal,) = printed(PAGE, r"levels fitted to normal numbers [\d.]+%: -(\d+)%")
    said(PAGE, f"in the same way to normal numbers has {normal} % less: most of the gain")
    assert int(less) / 2 < int(normal) <= int(less)
    nf4, fitted = printed(PAGE, r"with NF4 ([\d.]+)%, with the fitted levels ([\d.]+)%")
    said(PAGE, f"worth about {math.log(float(nf4) / float(fitted), 4):.2f} bits")


def test_what_double_quantization_costs():
    (more,) = printed(PAGE, r"squared error: [\d.]+% → [\d.]+%, ([\d.]+)% more")
    said(PAGE, f"for {more} % more error (relative) on this matrix")
    said(PAGE, f"instead of 4.5, for {float(more):.1f} % more error")

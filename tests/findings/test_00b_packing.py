r"""What 00b says of its own run."""

from __future__ import annotations

from finding import printed, said

PAGE = "00b_packing"


def test_the_template_and_what_is_learned():
    learned, tokens = printed(PAGE, r"(\d+) of (\d+) tokens are learned")
    said(PAGE, f"{learned} of {tokens}: the answer and <|im_end|>")
    said(PAGE, f"here {learned} tokens of {tokens}")
    (last,) = printed(PAGE, r"0–(\d+) +'<\|im_start\|>' 'system'")
    said(PAGE, f"The first {int(last) + 1} tokens are a system message")
    _, longest = printed(PAGE, r"examples of (\d+) to (\d+) tokens")
    said(PAGE, "None of the course's is too long")
    assert int(longest) < 256


def test_the_share_of_padding():
    random, by_length = printed(PAGE, r"padding: (\d+)% in random order, (\d+)% sorted")
    said(PAGE, f"In this order {random} % of what the model computes on is padding, and {by_length} %")
    examples, rows, packed = printed(
        PAGE, r"(\d+) examples in (\d+) rows; padding in batches of eight rows: (\d+)%"
    )
    assert int(by_length) < int(packed) < int(random)
    said(
        PAGE,
        f"Packing leaves {packed} % of padding in this order, where random batches had {random} % "
        f"and sorted ones {by_length} %",
    )
    in_a_row = int(examples) / int(rows)
    assert 2 * in_a_row < 8 < 3 * in_a_row and int(rows) < int(examples) / 3
    said(PAGE, f"eight packed rows hold {8 * in_a_row:.0f} examples")
    said(PAGE, f"a packed row holds about {in_a_row:.1f} examples")
    said(PAGE, "an epoch has fewer than a third of the steps. Take two or three rows instead of eight")
    said(
        PAGE, f"{random} % of the tokens are padding; sorted by length, {by_length} %; packed in random order"
    )
    said(PAGE, f"packed in random order, {packed} %")
    said(PAGE, f"if all {examples} examples are packed")


def test_packed_examples_have_the_loss_that_they_have_one_by_one():
    one, packed, leaking = map(
        float, printed(PAGE, r"answers +([\d.]+) +([\d.]+) +([\d.]+) +positions count on")
    )
    whole, in_rows, unmasked = map(
        float, printed(PAGE, r"all tokens +([\d.]+) +([\d.]+) +([\d.]+) +first labels")
    )
    assert abs(one - packed) < 1e-4 and abs(whole - in_rows) < 1e-4
    said(PAGE, f"unless its label is masked: {unmasked:.2f} instead of {in_rows:.2f}")
    said(PAGE, f"the loss is {leaking:.2f} instead of {one:.2f}. Lower is not better here")
    assert leaking < one


def test_the_course_s_own_rows_are_fit():
    assert printed(PAGE, r"the course's own rows: (\{.*\})") == ("{'fit': 255}",)
    said(PAGE, "No fault in the course's own rows")

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
    said(PAGE, f"The course's longest has {longest} tokens")


def test_the_share_of_padding():
    by_length, random = printed(PAGE, r"padding: (\d+)% sorted by length, (\d+)% in random order")
    said(PAGE, f"On average {random} % of what the model computes on is padding, and {by_length} %")
    examples, rows, packed = printed(PAGE, r"rows of 256, 8 a batch: (\d+) examples in (\S+) rows, padding (\d+)%")
    (three,) = printed(PAGE, r"rows of 256, 3 a batch: .* padding (\d+)%")
    longer, longest = (printed(PAGE, rf"rows of {length}, 8 a batch: .* padding (\d+)%")[0] for length in (512, 1024))
    assert int(by_length) < int(three) < int(packed) < int(random)
    said(PAGE, f"Packing leaves {packed} % of padding, where random batches had {random} %")
    said(PAGE, f"and sorted ones {by_length} %")
    said(PAGE, f"in batches of three, about as many examples as eight unpacked rows, {three} % is padding")
    said(PAGE, f"Longer rows leave less: {longer} % with 512 tokens, {longest} % with 1,024")
    in_a_row = int(examples) / float(rows)
    assert 2 * in_a_row < 8 < 3 * in_a_row and float(rows) < int(examples) / 3
    said(PAGE, f"eight packed rows hold {8 * in_a_row:.0f} examples")
    said(PAGE, f"a packed row holds about {in_a_row:.1f} examples")
    said(PAGE, "an epoch has fewer than a third of the steps. Take two or three rows instead of eight")
    said(PAGE, f"{random} % of the tokens are padding; sorted by length, {by_length} %")
    said(PAGE, f"packed in random order, {packed} % in batches of eight rows and {three} % in batches of three")
    said(PAGE, f"if all {examples} examples are packed")


def test_packed_examples_have_the_loss_that_they_have_one_by_one():
    one, packed, leaking = map(
        float, printed(PAGE, r"answers; positions count on +([\d.]+) +([\d.]+) +([\d.]+)")
    )
    whole, in_rows, unmasked = map(
        float, printed(PAGE, r"all tokens; first labels not masked +([\d.]+) +([\d.]+) +([\d.]+)")
    )
    assert abs(one - packed) < 1e-4 and abs(whole - in_rows) < 1e-4
    said(PAGE, f"unless its label is masked: {unmasked:.2f} instead of {in_rows:.2f}")
    said(PAGE, f"the loss is {leaking:.2f} instead of {one:.2f}. Lower is not better here")
    assert leaking < one


def test_the_course_s_own_rows_are_fit():
    assert printed(PAGE, r"the course's own rows: (\{.*\})") == ("{'fit': 255}",)
    said(PAGE, "No fault in the course's own rows")

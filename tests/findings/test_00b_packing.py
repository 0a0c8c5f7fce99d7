r"""What 00b says of its own run."""

import torch
from finding import printed, said
from transformers.masking_utils import find_packed_sequence_indices, flash_attention_mask, packed_sequence_mask_function
from transformers.modeling_flash_attention_utils import _is_packed_sequence

from coursekit.checks import practice
from coursekit.checks.training_cycle_audit import audit, public_rows
from coursekit.models import load_decoder

PAGE = "00b_packing"


def test_the_template_and_what_is_learned():
    learned, tokens = printed(PAGE, r"(\d+) of (\d+) tokens are learned")
    said(PAGE, f"{learned} of {tokens}: the answer and <|im_end|>")
    said(PAGE, f"here {learned} tokens of {tokens}")
    (last,) = printed(PAGE, r"0–(\d+) +'<\|im_start\|>' 'system'")
    said(PAGE, f"The first {int(last) + 1} tokens are a system message")


def test_the_share_of_padding():
    by_length, random = printed(PAGE, r"padding: (\d+)% sorted by length, (\d+)% in random order")
    said(PAGE, f"On average {random} % of what the model computes on is padding, and {by_length} %")
    examples, rows, three = printed(PAGE, r"rows of 256, 3 a batch: (\d+) examples in (\S+) rows, padding (\d+)%")
    assert int(by_length) < int(three) < int(random)
    in_a_row = int(examples) / float(rows)
    assert float(rows) < int(examples) / 3
    said(PAGE, f"Padding falls from {random} % to {three} %.")
    said(PAGE, f"Sorting left only {by_length} %")
    assert round(3 * in_a_row) == 10
    said(PAGE, "in batches of three rows (about ten examples)?")
    said(PAGE, f"Eight packed rows hold {8 * in_a_row:.0f} examples")
    said(PAGE, "an epoch of such batches has fewer than a third of the steps")
    said(PAGE, f"{random} % of the tokens are padding; sorted by length, {by_length} %")
    said(PAGE, f"packed in random order, {three} % in batches of three rows")
    said(PAGE, f"if all {examples} examples are packed into rows of at most 256 tokens")


def test_packed_examples_have_the_loss_that_they_have_one_by_one():

    def losses(name: str, learned: str) -> tuple[float, ...]:
        return tuple(map(float, printed(PAGE, rf"\n{name} +{learned} +([\d.]+) +([\d.]+)")))

    (one, packed), (whole, in_rows) = losses("no mistake", "answers"), losses("no mistake", "all tokens")
    (same, leaking), (also, unmasked) = (
        losses("positions that count on", "answers"),
        losses("first labels not masked", "all tokens"),
    )
    (_, cached), (_, masked) = losses("the cache left on", "answers"), losses("an attention mask", "answers")
    assert (same, also) == (one, whole)
    assert cached == masked > packed + 1
    said(PAGE, f"examples see those before them, with positions that overlap, and the loss is {cached:.2f}.")
    assert abs(one - packed) < 1e-4 and abs(whole - in_rows) < 1e-4
    assert printed(PAGE, r"0–\d+ +'<\|im_start\|>' 'system'.* (\w+)\n") == ("read",), "masked before it is packed"
    said(PAGE, "harmless while only answers are learned; where the request is learned too")
    said(PAGE, f"from the end of the one before, {unmasked:.2f} instead of {in_rows:.2f}")
    said(PAGE, f"the loss is {leaking:.2f} instead of {one:.2f}. Lower is not better here")
    assert leaking < one


def test_where_flash_attention_finds_borders():
    r"""Of its kernel only what transformers tells it: no mask, and the borders of a single row."""
    row = torch.tensor([[0, 1, 2, 0, 1]])
    three = row.repeat(3, 1)
    packed = packed_sequence_mask_function(find_packed_sequence_indices(three))
    assert flash_attention_mask(3, 5, 5, mask_function=packed) is None
    assert _is_packed_sequence(row, 1) and not _is_packed_sequence(three, 3)
    said(PAGE, "makes one packed row of a whole batch")
    said(PAGE, "FlashAttention finds the borders only in such a batch of one row: in a larger one examples see each "
               "other, without an error (not run here).")  # fmt: skip


def test_the_course_s_own_rows_are_fit():
    assert printed(PAGE, r"the course's own rows: (\{.*\})") == ("{'fit': 255}",)
    said(PAGE, "No fault in the course's own rows")


def test_the_row_that_is_shown_is_fit():
    masked, learned = printed(PAGE, r"labels: (\d+) times -100, then '(.+)'")
    rows = public_rows(0)
    tokenizer = load_decoder("smollm2")[1]
    assert tokenizer.decode(rows[0][0]["input_ids"][int(masked) :]) == learned
    assert audit(*rows)[0] == "fit"
    said(PAGE, "The first row of the exercise below is fit: its labels are the answer's tokens and the end token")


def test_practice_gives_the_check_s_rows():
    for case in range(3):
        assert practice("training-cycle-audit", case) == public_rows(case)
    said(PAGE, 'practice("training-cycle-audit", 0) gives the check\'s first rows, 1 and 2 the others')

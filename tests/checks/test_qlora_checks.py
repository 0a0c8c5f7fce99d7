r"""08's codes: the check gives them in the type in which the page feeds them to whoever's answer passed."""

from pathlib import Path

import nbformat
import torch

from coursekit.checks import check, exercises
from coursekit.quantization.bit_stream import unpack as codes_of

PAGE = Path(__file__).resolve().parents[2] / "notebooks" / "08_qlora.ipynb"


def test_an_answer_that_passes_runs_on_the_page_s_codes():
    (cell,) = (c.source for c in nbformat.read(PAGE, 4).cells if "class QLoRALinear" in c.source)
    assert "codes_of(q.packed, 4, q.shape.numel()).int()" in cell
    on_the_page = codes_of(torch.zeros(4, dtype=torch.uint8), 4, 8).int()
    exercise = exercises()["qlora-unpack"]
    assert {case[0].dtype for case in exercise.public} == {on_the_page.dtype} == {torch.int32}


def test_an_answer_for_codes_of_eight_bytes_alone_does_not_pass():
    def taken(codes, table, absmax, block):
        return (table.take(codes).reshape(-1, block) * absmax[:, None]).reshape(codes.shape)

    found = check("qlora-unpack", taken)
    assert (found.status, found.points) == ("failed", 0) and "long" in found.message
    assert check("qlora-unpack", lambda codes, *rest: taken(codes.long(), *rest)).status == "passed"

r"""The published tables: which counts follow from the papers' formulas, which do not, checked on the meta device."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from coursekit import methods
from coursekit.comparison import published
from coursekit.errors import CourseError
from coursekit.methods import LoRA

# Counts worked out independently of this package; True: rounds to what the paper prints.
EXPECTED = {
    ("GPT-3", "FT", "175255.8"): (174_604_259_328, False),
    ("GPT-3", "BitFit", "14.2"): (12_988_416, False),
    ("GPT-3", "PreEmbed", "3.2"): (3_244_032, True),
    ("GPT-3", "PreLayer", "20.2"): (18_874_368, False),
    ("GPT-3", "Adapter H", "7.1"): (7_078_080, True),
    ("GPT-3", "Adapter H", "40.1"): (40_109_568, True),
    ("GPT-3", "LoRA", "4.7"): (4_718_592, True),
    ("GPT-3", "LoRA", "37.7"): (37_748_736, True),
    ("GPT-2 M", "FT", "354.92"): (354_823_168, False),
    ("GPT-2 M", "Adapter L", "0.37"): (368_784, True),
    ("GPT-2 M", "Adapter L", "11.09"): (11_089_152, True),
    ("GPT-2 M", "Adapter H", "11.09"): (11_064_576, False),
    ("GPT-2 M", "FT Top2", "25.19"): (25_192_448, True),
    ("GPT-2 M", "LoRA", "0.35"): (393_216, False),
    ("GPT-2 L", "FT", "774.03"): (774_030_080, True),
    ("GPT-2 L", "Adapter L", "0.88"): (875_808, True),
    ("GPT-2 L", "Adapter L", "23.00"): (23_002_848, True),
    ("GPT-2 L", "LoRA", "0.77"): (737_280, False),
    ("RoBERTa base", "LoRA", "0.3"): (294_912, True),
    ("RoBERTa base", "Adapter D", "0.9"): (894_528, True),
    ("RoBERTa large", "LoRA", "0.8"): (786_432, True),
    ("RoBERTa large", "Adapter P", "0.8"): (811_392, True),
    ("RoBERTa large", "Adapter H", "0.8"): (835_968, True),
    ("RoBERTa large", "Adapter P", "3.0"): (3_171_840, False),
    ("RoBERTa large", "Adapter H", "6.0"): (6_343_680, False),
    ("DeBERTa XXL", "LoRA", "4.7"): (4_718_592, True),
}
ROWS = {(r.model, r.method, r.published): r for t in published.TABLES for r in published.rows(t)}


@pytest.mark.parametrize("key", EXPECTED, ids="-".join)
def test_counts_and_verdicts(key):
    assert (ROWS[key].exact, ROWS[key].agrees) == EXPECTED[key]


def test_no_row_of_gpt2_prefixes_can_be_reached_by_any_number_of_tokens():
    for model, printed in (("GPT-2 M", "0.35"), ("GPT-2 L", "0.77")):
        own = published.config(model)
        assert all(f"{own.n_layer * own.n_embd * n / 1e6:.2f}" != printed for n in range(1, 100))
        assert ROWS[model, "PreLayer", printed].agrees is False


@pytest.mark.parametrize("key", [k for k, r in ROWS.items() if r.rule == "lora"], ids="-".join)
def test_lora_rows_are_counted_again_on_modules_on_the_meta_device(key):
    row = ROWS[key]
    config = published.split_attention(row.model)
    auto = AutoModelForCausalLM if config.model_type == "opt" else AutoModelForSequenceClassification
    with torch.device("meta"):
        model = LoRA(r=row.setting, targets=published.query_and_value(config)).attach(
            auto.from_config(config)
        )
    learned = [p for n, p in model.named_parameters() if p.requires_grad and ".copies." not in n]
    assert sum(p.numel() for p in learned) == row.exact
    assert methods.attached(model)["default"].r == row.setting


def test_the_same_count_with_another_structure():
    r"""r=4 on GPT-2's fused matrix has as many parameters as r=4 on query and value: size is not structure."""
    config = published.config("GPT-2 M")
    assert LoRA(r=4, targets="c_attn").count(config) == LoRA(r=4).count(published.split_attention("GPT-2 M"))


def test_every_row_has_scores_and_a_source():
    assert len(ROWS) == 8 + 12 + 14
    for row in ROWS.values():
        assert row.scores and all(value > 0 for value in row.scores.values()) and "arXiv" in row.source
    assert ROWS["DeBERTa XXL", "FT", "1500.0"].agrees is None


def test_unknown_names():
    with pytest.raises(CourseError, match="did you mean 'glue'"):
        published.rows("glu")
    with pytest.raises(CourseError, match="did you mean 'GPT-2 M'"):
        published.config("GPT-2 m")

r"""Tables: the same cells in Jupyter and in a terminal."""

from coursekit.notebook.tables import Table


def test_numbers_stand_on_the_right_in_both_forms():
    table = Table(["method", "count", "fits"], [["LoRA", 4_718_592, True], ["a|b", None, False]])
    assert repr(table).splitlines() == ["method      count  fits", "LoRA    4,718,592  yes", "a|b             –  no"]
    assert table._repr_markdown_().splitlines() == [
        "| method | count | fits |",
        "| :-- | --: | :-- |",
        "| LoRA | 4,718,592 | yes |",
        "| a\\|b | – | no |",
    ]


def test_what_counts_as_a_number():
    numbers = ["1", "1,104", "0.34%", "3.4e+38", "–", "-2.5", "×503"]
    words = ["7 B, no checkpointing", "none is enough", "2 × 32", "", "✓"]
    assert all(Table([""], [[n]])._right == [True] for n in numbers)
    assert all(Table([""], [[w]])._right == [False] for w in words)

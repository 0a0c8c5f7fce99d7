r"""Tables: the same cells in Jupyter and in a terminal."""

from coursekit.tables import Table


def test_numbers_stand_on_the_right_in_both_forms():
    table = Table(["method", "count", "fits"], [["LoRA", 4_718_592, True], ["a|b", None, False]])
    assert repr(table).splitlines() == [
        "method      count  fits",
        "LoRA    4,718,592  yes",
        "a|b             –  no",
    ]
    assert table._repr_markdown_().splitlines() == [
        "| method | count | fits |",
        "| :-- | --: | :-- |",
        "| LoRA | 4,718,592 | yes |",
        "| a\\|b | – | no |",
    ]

r"""What a notebook imports: source on display, tables, types of parameters; and its generated cells."""

from coursekit.notebook.cells import expect_types, show

__all__ = [
    "expect_types",
    "show",
]

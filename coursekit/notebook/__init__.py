r"""What a notebook imports: source on display, and tables; and its generated cells."""

from coursekit.notebook.cells import show

__all__ = ["show"]

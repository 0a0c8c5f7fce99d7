r"""What runs inside the box, and the prefork server that it is forked from. Holds no reference, mutant or test.

Copied beside a package without `coursekit.checks`; so nothing here imports from the rest of `coursekit`.
"""

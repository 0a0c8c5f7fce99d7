r"""Runs that conclusions stand on: how they are made, kept and judged. The files lie in `data/evidence/`.

Reading: `results` (what a notebook asks) on `table` (the CSV), `intervals` (seeds and sentences are both samples) and
`verdict` (better, worse, equal for practical purposes, no clear difference).
"""

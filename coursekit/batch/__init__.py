r"""Batches of notebooks through papermill: `runner.py` runs what `inputs.py` has checked,
`processes.py` watches, `folder.py` keeps the results, `report.py` has their summary and pages.
"""

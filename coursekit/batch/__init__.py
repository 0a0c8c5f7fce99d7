r"""Batches of notebooks through papermill: `runner.py` runs, `processes.py` watches, `report.py` writes the pages."""

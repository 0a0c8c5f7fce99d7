r"""Evidence: grids of runs that conclusions stand on, in `data/evidence/`.

Open `grid.py` first: what is declared. `plan.py` decides what is left to run, `store.py` keeps the runs, `work.py` runs
them in several processes, `intervals.py` says how sure a difference is, `card.py` writes what a reader must know.
"""

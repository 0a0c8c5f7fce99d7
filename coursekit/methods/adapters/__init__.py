r"""Bottleneck adapters: small trained networks between the frozen parts of each block, one file for each placement.

Open `bottleneck.py` first (the equation), then `houlsby.py` and `placement.py` (how its output joins a block).
`adapter.py` is what all of them share; `drop.py` and `sparse.py` are methods around an adapter.
"""

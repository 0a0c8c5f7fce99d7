r"""Training in a random subspace of all weights: how many directions a task needs.

said.py is the method, fastfood.py its random matrix, hadamard.py the transform in it. displaced.py: layers with moved
weights; directions.py: which move, and when they are computed.
"""

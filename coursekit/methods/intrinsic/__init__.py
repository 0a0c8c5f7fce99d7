r"""Training in a random subspace of all weights: how many directions a task needs.

said.py is the method, fastfood.py its random matrix. displaced.py: layers with moved weights, which ones move, and when
they are computed.
"""

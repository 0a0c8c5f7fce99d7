r"""The machinery that all methods share: names, attaching, switching, mixed batches, merging, saving.

Open `method.py` first: the interface of every method. A method's own file holds its equation and its parameters; what
all methods share is here, once.
"""

r"""One description of the model families the course knows, read from a config alone: no weights, no modules.

Everything that is counted or predicted (parameters, memory, LoRA shapes) starts from these shapes. A test builds
each family on the meta device and checks that the modules found there are exactly the ones described here.

Open `shapes.py` first: what a description says. `families.py` has one function for each family, and lists them.
"""

from coursekit.architecture.families import describe
from coursekit.architecture.shapes import Architecture, Matrix, Norm

__all__ = ["Architecture", "Matrix", "Norm", "describe"]

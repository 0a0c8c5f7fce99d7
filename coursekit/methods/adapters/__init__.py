r"""Bottleneck adapters: small trained networks between the frozen parts of each block, one file for each placement.

Open `bottleneck.py` first (the equation), then `houlsby.py` and `placement.py` (how its output joins a block).
`adapter.py` is what all of them share; `drop.py` and `sparse.py` are methods around an adapter.
"""

from coursekit.methods.adapters.adapter import Adapter, bottlenecks
from coursekit.methods.adapters.bottleneck import Bottleneck
from coursekit.methods.adapters.compacter import Compacter, CompacterPlus
from coursekit.methods.adapters.drop import AdapterDrop
from coursekit.methods.adapters.houlsby import HoulsbyAdapter
from coursekit.methods.adapters.lin import LinAdapter
from coursekit.methods.adapters.parallel import ParallelAdapter
from coursekit.methods.adapters.passes import skipping
from coursekit.methods.adapters.pfeiffer import PfeifferAdapter
from coursekit.methods.adapters.sparse import SparseAdapter

__all__ = [
    "Adapter",
    "AdapterDrop",
    "Bottleneck",
    "Compacter",
    "CompacterPlus",
    "HoulsbyAdapter",
    "LinAdapter",
    "ParallelAdapter",
    "PfeifferAdapter",
    "SparseAdapter",
    "bottlenecks",
    "skipping",
]

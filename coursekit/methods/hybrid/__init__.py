r"""Methods made of other methods: any that touch different places, and two that have a name of their own."""

from coursekit.methods.hybrid.hybrid import Hybrid
from coursekit.methods.hybrid.mam import MAMAdapter
from coursekit.methods.hybrid.unipelt import UniPELT

__all__ = ["Hybrid", "MAMAdapter", "UniPELT"]

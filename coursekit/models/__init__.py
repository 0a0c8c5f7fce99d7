r"""Models: from archive to cache to a loaded model.

Open `load.py` first: one call for the bundled models, a folder or the hub. `hub.py` finds the files and says in one
line what goes wrong. `sources.py` is what comes with the course, unpacked from `archives.py` into `cache.py`.
`quantized.py` reads a model straight into 4 bits.
"""

from coursekit.models.hub import is_encoder
from coursekit.models.load import load_decoder, load_encoder

__all__ = ["is_encoder", "load_decoder", "load_encoder"]

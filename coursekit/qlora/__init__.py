r"""QLoRA: a base in four bits, 8-bit and paged optimizers, their memory.

Open `linear.py` first: a linear layer whose weight lies in codes. `model.py` puts it into a model.
"""

from coursekit.qlora.adam8bit import AdamW8bit
from coursekit.qlora.linear import Linear4bit
from coursekit.qlora.model import quantize_model
from coursekit.qlora.paged import PagedAdamW, Pager, Traffic, paged_adamw

__all__ = ["AdamW8bit", "Linear4bit", "PagedAdamW", "Pager", "Traffic", "paged_adamw", "quantize_model"]

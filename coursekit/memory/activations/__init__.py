r"""What autograd keeps for the backward pass, and what forward and backward need on top: closed forms.

Open `block.py` first: a block is a list of steps in the order of the forward pass. `step.py` has the picture of what
is alive when; `linear.py` writes the steps of matrices, `forward.py` knows the local variables of transformers' code,
`stored.py` what a checkpoint leaves. What a method inserts writes its own steps: `coursekit.memory.inserted`.

Symbols of the formulas: T = batch x sequence (tokens), K = batch x keys, S = heads x T x sequence (attention weights),
d = d_model, q = heads x head size, kv = KV heads x head size, f = d_ff, V = vocabulary, r = LoRA rank.

What decides whether a tensor is kept:
- $y = xW^\top$ keeps $x$ only if $W$ is trained: a frozen linear layer keeps nothing.
- LoRA keeps $x$ and $Ax$ of the layers it adapts, VeRA $Ax$ and $B(d \odot Ax)$, OFT $x$ and what makes its rotation.
- norms, activations and attention keep what they need for the gradient of their *input*, whatever is trained, as
  soon as anything before them is trained.
"""

from coursekit.memory.activations.block import block_steps
from coursekit.memory.activations.builder import Builder
from coursekit.memory.activations.step import Setting, Step
from coursekit.memory.activations.training import Part, Training, Written

__all__ = ["Builder", "Part", "Setting", "Step", "Training", "Written", "block_steps"]

r"""P-tuning (Liu et al. 2021, arXiv:2103.10385): virtual tokens made by a small network, anywhere in a template.

$$\{h_0, \dots, h_i, e(x), h_{i+1}, \dots, h_m, e(y)\}, \quad h = \mathrm{MLP}(\mathrm{LSTM}(P))$$
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.errors import CourseError, keep, one_of, whole
from coursekit.methods.mechanism.attachment import Attachment, attached, find_attachment
from coursekit.methods.mechanism.checkpoint import Setting, agree
from coursekit.methods.soft_prompts.input_prompt import KEY, PATH, InputPrompt, SoftPrompt, d_embed, in_vocabulary
from coursekit.methods.soft_prompts.prompt import Vectors

#: Where a checkpoint keeps the network that made the prompt. peft leaves these tensors unread.
ENCODER = "prompt_encoder."


class PromptEncoder(SoftPrompt):
    r"""n trained vectors $P$ and a network that makes the virtual tokens of them. Names and order are peft's."""

    def __init__(self, n: int, d: int):
        super().__init__()
        self.n, self.embedding = n, nn.Embedding(n, d)

    def vectors(self) -> Float[Tensor, "n d"]:
        return self(self.embedding.weight)


class LSTMEncoder(PromptEncoder):
    r"""$\mathrm{MLP}([\overrightarrow{h_i} : \overleftarrow{h_i}])$: an LSTM in both directions, then two layers.

    Equation 5 of the paper. It makes virtual tokens from one another, so that neighbours learn together. `hidden` is
    the width of one direction, d / 2 in the authors' code.
    """

    def __init__(self, n: int, d: int, hidden: int, layers: int = 2):
        super().__init__(n, d)
        self.lstm_head = nn.LSTM(d, hidden, num_layers=layers, bidirectional=True, batch_first=True)
        self.mlp_head = nn.Sequential(nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, d))

    def forward(self, P: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        # cuDNN has no backward pass for an LSTM in eval mode.
        with torch.backends.cudnn.flags(enabled=self.training):
            h, _ = self.lstm_head(P[None])  # (1, n, d) -> (1, n, 2 * hidden)
        return self.mlp_head(h)[0]  # (1, n, 2 * hidden) -> (n, d)


class MLPEncoder(PromptEncoder):
    r"""Three layers for each vector alone: the variant that peft has beside the paper's."""

    def __init__(self, n: int, d: int, hidden: int):
        super().__init__(n, d)
        self.mlp_head = nn.Sequential(
            nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, d)
        )

    def forward(self, P: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return self.mlp_head(P[None])[0]  # (n, d) -> (n, d), through a batch of one as in peft


@dataclass(frozen=True)
class PTuning(InputPrompt):
    r"""`n` virtual tokens that come out of a trained network.

    encoder: "lstm", the paper's, or "mlp". hidden: width of the network; None: d / 2 for one direction of the LSTM,
    as in the authors' code, and d for the MLP. layers: of the LSTM.
    placeholder: id of a token that a text has exactly n times; there the virtual tokens stand, in order. Take one
    that texts do not have, such as a special token that was never trained. None: before the text, as in peft.

    A checkpoint holds the virtual tokens under peft's name, and the network beside them, under names that peft does
    not read. Without the network (a checkpoint of peft's, or one saved with `encoder=False`) a loaded adapter can be
    used, but not trained further, except for a task head. peft itself knows no placeholder: it would put the vectors
    of a template in front, and warns that it does not know the setting.

    Raises CourseError for settings that make no sense, on attaching for a placeholder that is not in the vocabulary,
    and at a call for a text that has the placeholder another number of times.
    """

    n: int = 10
    encoder: str = "lstm"
    hidden: int | None = None
    layers: int = 2
    placeholder: int | None = None
    kind: ClassVar[str] = "P_TUNING"
    entries = (
        Setting("n", "num_virtual_tokens"),
        Setting("encoder", "encoder_reparameterization_type", read=str.lower, write=str.upper),
        Setting("hidden", "encoder_hidden_size"),
        Setting("layers", "encoder_num_layers"),
        Setting("placeholder", absent=None),
    )

    def __post_init__(self) -> None:
        keep(self, n=whole("n", self.n, least=1, such_as=10))
        one_of("encoder", self.encoder, ("lstm", "mlp"))
        if self.hidden is not None:
            keep(self, hidden=whole("hidden", self.hidden, least=1, such_as=128))
        keep(self, layers=whole("layers", self.layers, least=1, most=16, such_as=2))
        if self.placeholder is not None:  # such as tokenizer.unk_token_id
            keep(self, placeholder=whole("placeholder", self.placeholder, least=0))
        if self.encoder == "mlp" and self.layers != 2:
            raise CourseError(f'layers={self.layers} is for encoder="lstm": the MLP always has its three')

    def count(self, config: Any) -> int:
        r"""$nd$ and the network; see `counts.p_tuning_lstm` and `counts.p_tuning_mlp`."""
        d = d_embed(config)
        if self.encoder == "mlp":
            return counts.p_tuning_mlp(d, self.n, self._hidden(d))
        return counts.p_tuning_lstm(d, self.n, self._hidden(d), self.layers)

    def save(self, model: nn.Module, folder: str | Path, name: str | None = None, encoder: bool = True) -> Path:
        r"""Write what was trained to `folder`. encoder=False leaves the network out: smaller, and done training, as the
        comparison measures it.
        """
        name = self._named(model, name)
        method = attached(model)[name]  # the one that was attached: another may have other settings
        tensors = method._learned(model, name)
        if not encoder:
            tensors = {key: value for key, value in tensors.items() if not key.startswith(ENCODER)}
        return interop.write(folder, method._config(model), tensors)

    def _hidden(self, d: int) -> int:
        return self.hidden or (d if self.encoder == "mlp" else max(1, d // 2))

    def _check(self, model: nn.Module) -> None:
        super()._check(model)
        if self.placeholder is not None:
            in_vocabulary("placeholder", self.placeholder, model)

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        trained = super()._insert(model, state, name, found)
        if self.placeholder is not None:
            model.get_submodule(PATH).placeholders[name] = self.placeholder
        return trained

    def _prompt(self, embedding: nn.Module, config: Any) -> PromptEncoder:
        d = embedding.weight.shape[1]
        hidden = self._hidden(d)
        if self.encoder == "mlp":
            return MLPEncoder(self.n, d, hidden)
        return LSTMEncoder(self.n, d, hidden, self.layers)

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        prompt = model.get_submodule(PATH).prompts[name]
        network = prompt.state_dict() if isinstance(prompt, PromptEncoder) else {}
        return super()._tensors(model, name) | {ENCODER + key: value for key, value in network.items()}

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: str | Path) -> None:
        if not any(key.startswith(ENCODER) for key in tensors):
            # Only what the network made is there: keep that, and let the network go.
            own = {k: v for k, v in self._learned(model, name).items() if not k.startswith(ENCODER)}
            interop.same_tensors(own, tensors, folder)
            holder, state = model.get_submodule(PATH), find_attachment(model)
            network = {id(p) for p in holder.prompts[name].parameters()}
            holder.prompts[name] = Vectors(own[KEY].detach(), trains=False)
            state.parameters[name] = [p for p in state.parameters[name] if id(p) not in network]
        super()._load(model, name, tensors, folder)

    def _config(self, model: nn.Module) -> dict[str, Any]:
        config = super()._config(model) | {
            "encoder_hidden_size": self._hidden(model.get_input_embeddings().weight.shape[1]),
            "encoder_dropout": 0.0,
        }
        if self.placeholder is None:  # peft is told nothing that it does not know
            del config["placeholder"]
        return config

    def _check_config(self, config: dict[str, Any]) -> None:
        agree(self, config, [s for s in self.entries if s.field != "hidden" or self.hidden is not None])

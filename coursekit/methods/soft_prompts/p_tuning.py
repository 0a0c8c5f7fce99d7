r"""P-tuning (Liu et al. 2021, arXiv:2103.10385): virtual tokens made by a small network, anywhere in a template.

$$\{h_0, \dots, h_i, e(x), h_{i+1}, \dots, h_m, e(y)\}, \quad h = \mathrm{MLP}(\mathrm{LSTM}(P))$$
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.architecture import describe
from coursekit.errors import CourseError, unknown
from coursekit.methods.mechanism.attachment import Attachment, attached
from coursekit.methods.soft_prompts.encoders import LSTMEncoder, MLPEncoder, PromptEncoder
from coursekit.methods.soft_prompts.prompt import PATH, InputPrompt, Vectors, check_n

#: Where a checkpoint keeps the network that made the prompt. peft leaves these tensors unread.
ENCODER = "prompt_encoder."


@dataclass(frozen=True)
class PTuning(InputPrompt):
    r"""`n` virtual tokens that come out of a trained network.

    encoder: "lstm", the paper's, or "mlp". hidden: width of the network; None: d / 2 for one direction of the LSTM,
    as in the authors' code, and d for the MLP. layers: of the LSTM.
    placeholder: id of a token that a text has exactly n times; there the virtual tokens stand, in order. Take one
    that texts do not have, such as a special token that was never trained. None: before the text, as in peft.

    A checkpoint holds the virtual tokens under peft's name, and the network beside them, under names that peft does
    not read. Without the network (a checkpoint of peft's, or one saved with `encoder=False`) a loaded adapter
    serves, but of it only a task head can train further. peft itself knows no placeholder: it would put the vectors
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

    def __post_init__(self) -> None:
        check_n(self.n)
        if self.encoder not in ("lstm", "mlp"):
            raise unknown("encoder", self.encoder, ("lstm", "mlp"))
        for key, value in (("hidden", self.hidden), ("layers", self.layers)):
            if value is None and key == "hidden":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CourseError(f"{key}={value!r}: take a whole number from 1 up")
        token = self.placeholder
        if token is not None and (isinstance(token, bool) or not isinstance(token, int) or token < 0):
            raise CourseError(
                f"placeholder={token!r} is no token id: take that of a token which no text has, such as "
                "tokenizer.unk_token_id"
            )
        if self.encoder == "mlp" and self.layers != 2:
            raise CourseError(f'layers={self.layers} is for encoder="lstm": the MLP always has its three')

    def count(self, config: Any) -> int:
        r"""$nd$ and the network; see `counts.p_tuning_lstm` and `counts.p_tuning_mlp`."""
        if self.encoder == "mlp":
            return counts.p_tuning_mlp(config, self.n, self._hidden(config))
        return counts.p_tuning_lstm(config, self.n, self._hidden(config), self.layers)

    def save(
        self, model: nn.Module, folder: str | Path, name: str | None = None, encoder: bool = True
    ) -> Path:
        r"""Write what was trained to `folder`. encoder=False leaves the network out: smaller, and done training."""
        name = self._named(model, name)
        method = attached(model)[name]  # the one that was attached: another may have other settings
        tensors = method._learned(model, name)
        if not encoder:
            tensors = {key: value for key, value in tensors.items() if not key.startswith(ENCODER)}
        return interop.write(folder, method._config(model), tensors)

    def _hidden(self, config: Any) -> int:
        d = describe(config).d_embed
        return self.hidden or (d if self.encoder == "mlp" else max(1, d // 2))

    def _check(self, model: nn.Module) -> None:
        super()._check(model)
        vocabulary = model.get_input_embeddings().weight.shape[0]
        if self.placeholder is not None and not 0 <= self.placeholder < vocabulary:
            raise CourseError(
                f"placeholder={self.placeholder}: this model's vocabulary has {vocabulary} tokens"
            )

    def _insert(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        trained = super()._insert(model, state, name)
        if self.placeholder is not None:
            model.get_submodule(PATH).placeholders[name] = self.placeholder
        return trained

    def _prompt(self, embedding: nn.Module, config: Any) -> nn.Module:
        d, hidden = embedding.weight.shape[1], self._hidden(config)
        if self.encoder == "mlp":
            return MLPEncoder(self.n, d, hidden)
        return LSTMEncoder(self.n, d, hidden, self.layers)

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        prompt = model.get_submodule(PATH).prompts[name]
        network = prompt.state_dict() if isinstance(prompt, PromptEncoder) else {}
        return super()._tensors(model, name) | {ENCODER + key: value for key, value in network.items()}

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: str | Path) -> None:
        if any(key.startswith(ENCODER) for key in tensors):
            super()._load(model, name, tensors, folder)
            return
        # Only what the network made is there: keep that, and let the network go.
        holder, state = model.get_submodule(PATH), model._coursekit
        own = {key: value for key, value in self._learned(model, name).items() if not key.startswith(ENCODER)}
        interop.same_tensors(own, tensors, folder)
        network = {id(p) for p in holder.prompts[name].parameters()}
        made = own["prompt_embeddings"].detach()
        holder.prompts[name] = Vectors(made, trains=False)
        state.parameters[name] = [p for p in state.parameters[name] if id(p) not in network]
        super()._load(model, name, tensors, folder)

    def _config(self, model: nn.Module) -> dict[str, Any]:
        place = {} if self.placeholder is None else {"placeholder": self.placeholder}
        return super()._config(model) | place | {
            "encoder_reparameterization_type": self.encoder.upper(),
            "encoder_hidden_size": self._hidden(model.config),
            "encoder_num_layers": self.layers,
            "encoder_dropout": 0.0,
        }  # fmt: skip

    def _check_config(self, config: dict[str, Any]) -> None:
        super()._check_config({"placeholder": None} | config)  # peft's have none

    def _setting(self) -> dict[str, Any]:
        width = {} if self.hidden is None else {"encoder_hidden_size": self.hidden}
        return super()._setting() | width | {
            "placeholder": self.placeholder,
            "encoder_reparameterization_type": self.encoder.upper(),
            "encoder_num_layers": self.layers,
        }  # fmt: skip

    @classmethod
    def from_checkpoint(cls, folder: Any) -> PTuning:
        r"""The method with the hyperparameters of a checkpoint, ours or peft's."""
        config, _ = interop.read(folder)
        interop.same_method(cls.kind, config)
        encoder = config["encoder_reparameterization_type"].lower()
        return cls(
            n=config["num_virtual_tokens"],
            encoder=encoder,
            hidden=config["encoder_hidden_size"],
            layers=2 if encoder == "mlp" else config["encoder_num_layers"],
            placeholder=config.get("placeholder"),
        )

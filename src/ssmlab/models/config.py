"""Config of the language model."""

from dataclasses import dataclass, field, replace
from typing import Literal

from ssmlab.blocks.h3 import H3Config
from ssmlab.blocks.hyena import HyenaConfig
from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.blocks.mlp import MLPConfig
from ssmlab.blocks.plain_mlp import PlainMLPConfig
from ssmlab.core.errors import ConfigError
from ssmlab.mixers.attention import AttentionConfig
from ssmlab.mixers.checks import check_choice, check_positive_float, check_positive_int

LAYER_LETTERS = {
    "M": "Mamba block",
    "H": "H3 block",
    "Y": "Hyena operator",
    "A": "attention",
    "F": "gated MLP",
    "P": "plain MLP",
}


@dataclass(frozen=True)
class LanguageModelConfig:
    """A stack of pre-norm residual blocks between an embedding and a head.

    Attributes:
        vocab_size: V; 0 stands for "as the data's tokenizer says" and must be filled in before a
            model is built.
        d_model: width of the residual stream.
        n_layers: number of residual blocks; each letter of the pattern is one.
        pattern: letters separated by spaces, repeated (and cut) to n_layers: M Mamba block, H H3
            block, Y Hyena operator, A attention, F gated MLP, P plain MLP. "M F" with n_layers=4 is
            M F M F; "M M M A" is a hybrid with attention in every fourth place.
        attention_at: places, from 0, whose block is attention whatever the pattern says.
        mamba, h3, hyena, attention, mlp, plain_mlp: configs of the kinds of block.
        norm: "rms" (RMSNorm) or "layer" (LayerNorm), before every block and before the head.
        norm_eps: epsilon of every norm.
        positions: "none", or "learned" absolute positions added to the embedding.
        max_positions: how many learned positions there are; without effect on "none".
        residual_in_fp32: keep the residual stream in fp32 whatever the blocks compute in.
        tie_embeddings: the head's matrix is the embedding's.
        pad_vocab_size_multiple: round the rows of the embedding up to a multiple of this. Logits of
            the rows added are never returned and take no part in the loss.
        init_std: standard deviation of the start values of the embedding and the head, and of
            learned positions.
        linear_init: start of the linear maps of all blocks but Mamba's: "fan-in", U(±1/sqrt(fan-in)),
            or "normal", N(0, init_std²), as GPT-2 and GPT-3.
    """

    vocab_size: int = 0
    d_model: int = 64
    n_layers: int = 2
    pattern: str = "M"
    attention_at: tuple[int, ...] = ()
    mamba: MambaConfig = field(default_factory=MambaConfig)
    h3: H3Config = field(default_factory=H3Config)
    hyena: HyenaConfig = field(default_factory=HyenaConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    mlp: MLPConfig = field(default_factory=MLPConfig)
    plain_mlp: PlainMLPConfig = field(default_factory=PlainMLPConfig)
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    positions: Literal["none", "learned"] = "none"
    max_positions: int = 2048
    residual_in_fp32: bool = True
    tie_embeddings: bool = True
    pad_vocab_size_multiple: int = 1
    init_std: float = 0.02
    linear_init: Literal["fan-in", "normal"] = "fan-in"

    def __post_init__(self) -> None:
        owner = "LanguageModelConfig"
        size = self.vocab_size
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ConfigError(
                f"{owner}.vocab_size: expected a whole number >= 1, or 0 to take the size of the "
                f"data's vocabulary, got {size!r}"
            )
        check_positive_int(
            owner,
            d_model=self.d_model,
            n_layers=self.n_layers,
            pad_vocab_size_multiple=self.pad_vocab_size_multiple,
            max_positions=self.max_positions,
        )
        check_choice(owner, "norm", self.norm, ("rms", "layer"))
        check_choice(owner, "positions", self.positions, ("none", "learned"))
        check_choice(owner, "linear_init", self.linear_init, ("fan-in", "normal"))
        check_positive_float(owner, norm_eps=self.norm_eps, init_std=self.init_std)
        self._check_pattern(owner)
        if "M" in self.layers:
            self.mamba.check(self.d_model)
        if "H" in self.layers:
            self.h3.check(self.d_model)
        if "A" in self.layers:
            self.attention.sizes(self.d_model)

    def _check_pattern(self, owner: str) -> None:
        letters = self.pattern.split() if isinstance(self.pattern, str) else []
        unknown = [letter for letter in letters if letter not in LAYER_LETTERS]
        if unknown or not letters:
            valid = ", ".join(f"{letter} ({name})" for letter, name in LAYER_LETTERS.items())
            raise ConfigError(
                f"{owner}.pattern={self.pattern!r}: "
                + (f"unknown letter {unknown[0]!r}" if unknown else "no letter given")
                + f"; give letters separated by spaces out of {valid}, for example 'M F'"
            )
        places = self.attention_at
        wrong = [p for p in places if isinstance(p, bool) or not isinstance(p, int)]
        wrong += [p for p in places if p not in wrong and not 0 <= p < self.n_layers]
        if wrong or len(set(places)) != len(places):
            what = f"{wrong[0]!r} is none of them" if wrong else "a place is there twice"
            raise ConfigError(
                f"{owner}.attention_at={list(places)}: the blocks have places 0 to "
                f"{self.n_layers - 1}, {what}; give each place of attention once"
            )

    @property
    def layers(self) -> tuple[str, ...]:
        """The letter of each of the n_layers blocks."""
        letters = self.pattern.split()
        return tuple(
            "A" if i in self.attention_at else letters[i % len(letters)]
            for i in range(self.n_layers)
        )

    @property
    def max_length(self) -> tuple[int, str] | None:
        """The longest sequence that the model takes and the key that says so; None for any."""
        limits: list[tuple[int, str]] = []
        if self.positions == "learned":
            limits.append((self.max_positions, "model.max_positions"))
        if "Y" in self.layers:
            limits.append((self.hyena.long_conv.l_max, "model.hyena.long_conv.l_max"))
        for letter, block, name in (("M", self.mamba, "mamba"), ("H", self.h3, "h3")):
            if letter in self.layers and block.max_length is not None:
                limits.append((block.max_length, f"model.{name}.long_conv.l_max"))
        return min(limits, default=None)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple

    def effective(self) -> "LanguageModelConfig":
        """The same model, with everything that has no effect on it at one value.

        What builds the same model out of the same random numbers is equal here: configs of blocks
        and mixers that the model has none of are at their defaults, sizes left to "auto" are
        resolved, and the pattern has a letter for each block.
        """
        layers, width, default = self.layers, self.d_model, LanguageModelConfig()
        # Mamba blocks have start values of their own.
        plain = all(letter == "M" for letter in layers)
        return replace(
            self,
            pattern=" ".join(layers),
            attention_at=(),
            mamba=self.mamba.effective(width) if "M" in layers else default.mamba,
            h3=self.h3.effective(width) if "H" in layers else default.h3,
            hyena=self.hyena if "Y" in layers else default.hyena,
            attention=self.attention.effective(width) if "A" in layers else default.attention,
            mlp=self.mlp.effective(width) if "F" in layers else default.mlp,
            plain_mlp=self.plain_mlp.effective(width) if "P" in layers else default.plain_mlp,
            max_positions=self.max_positions
            if self.positions == "learned"
            else default.max_positions,
            linear_init=default.linear_init if plain else self.linear_init,
        )

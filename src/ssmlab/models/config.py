"""Config of the language model."""

from dataclasses import dataclass, field

from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.blocks.mlp import MLPConfig
from ssmlab.core.errors import ConfigError
from ssmlab.mixers.checks import check_positive_float, check_positive_int

LAYER_LETTERS = {"M": "Mamba block", "F": "gated MLP"}


@dataclass(frozen=True)
class LanguageModelConfig:
    """A stack of pre-norm residual blocks between an embedding and a head.

    Attributes:
        vocab_size: V; 0 stands for "as the data's tokenizer says" and must be filled in before a
            model is built.
        d_model: width of the residual stream.
        n_layers: number of residual blocks; each letter of the pattern is one.
        pattern: letters separated by spaces, repeated (and cut) to n_layers: M Mamba block, F gated
            MLP. "M F" with n_layers=4 is M F M F.
        mamba, mlp: configs of the two kinds of block.
        norm_eps: epsilon of every RMSNorm.
        residual_in_fp32: keep the residual stream in fp32 whatever the blocks compute in.
        tie_embeddings: the head's matrix is the embedding's.
        pad_vocab_size_multiple: round the rows of the embedding up to a multiple of this. Logits of
            the rows added are never returned and take no part in the loss.
        init_std: standard deviation of the start values of the embedding and the head.
    """

    vocab_size: int = 0
    d_model: int = 64
    n_layers: int = 2
    pattern: str = "M"
    mamba: MambaConfig = field(default_factory=MambaConfig)
    mlp: MLPConfig = field(default_factory=MLPConfig)
    norm_eps: float = 1e-5
    residual_in_fp32: bool = True
    tie_embeddings: bool = True
    pad_vocab_size_multiple: int = 1
    init_std: float = 0.02

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
        )
        check_positive_float(owner, norm_eps=self.norm_eps, init_std=self.init_std)
        letters = self.pattern.split() if isinstance(self.pattern, str) else []
        unknown = [letter for letter in letters if letter not in LAYER_LETTERS]
        if unknown or not letters:
            valid = ", ".join(f"{letter} ({name})" for letter, name in LAYER_LETTERS.items())
            raise ConfigError(
                f"{owner}.pattern={self.pattern!r}: "
                + (f"unknown letter {unknown[0]!r}" if unknown else "no letter given")
                + f"; give letters separated by spaces out of {valid}, for example 'M F'"
            )
        if "M" in self.layers:
            self.mamba.dt_rank(self.d_model)

    @property
    def layers(self) -> tuple[str, ...]:
        """The letter of each of the n_layers blocks."""
        letters = self.pattern.split()
        return tuple(letters[i % len(letters)] for i in range(self.n_layers))

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple

"""Where a text comes from, how it is cut into tokens and how it is split."""

from dataclasses import dataclass

from ssmlab.core.errors import ConfigError

MIN_BPE_VOCABULARY = 258  # 256 bytes, the end of a document, and one merge
MAX_BPE_VOCABULARY = 1_000_000


@dataclass(frozen=True)
class TextDataConfig:
    """A text source, its tokenizer and its fixed split into training and validation documents.

    Attributes:
        paths: files, folders (recursive) and globs of text (``.txt`` or any other UTF-8 text),
            ``.jsonl`` (a document a line), either of them as ``.gz`` or ``.xz``, and ``.parquet``
            (a document a row). Empty: the sources of the running Python's standard library.
        tokenizer: ``bytes`` (256 tokens), ``bpe:4096`` (byte-level BPE with at most 4096 tokens,
            trained on the training documents), or the path of a ``tokenizer.json`` or of the
            folder that holds one.
        text_field: the field of ``.jsonl`` and the column of ``.parquet`` that holds the text.
        val_fraction: share of the documents held out for validation. Which ones they are depends
            on their content and ``split_seed`` alone. Not used if ``val_paths`` are given.
        split_seed: another number holds out other documents.
        cache_dir: folder of the tokenised text; None for ``$SSMLAB_CACHE``, else
            ``~/.cache/ssmlab``.
        max_bytes: use at most that many bytes of ``paths``: whole documents, chosen by content.
        val_paths: explicit validation text, in the forms of ``paths``.

    Raises:
        ConfigError: a value out of range.
    """

    paths: tuple[str, ...] = ()
    tokenizer: str = "bytes"
    text_field: str = "text"
    val_fraction: float = 0.05
    split_seed: int = 0
    cache_dir: str | None = None
    max_bytes: int | None = None
    val_paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.val_paths and not 0 < self.val_fraction < 1:
            raise ConfigError(
                f"data.val_fraction is {self.val_fraction}: expected a share between 0 and 1, "
                "for example 0.05 (or give data.val_paths)"
            )
        if not 0 <= self.split_seed < 2**63:
            raise ConfigError(f"data.split_seed is {self.split_seed}: expected 0 or more")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise ConfigError(
                f"data.max_bytes is {self.max_bytes}: expected 1 or more, or null for all the text"
            )
        if not self.text_field:
            raise ConfigError("data.text_field is empty: expected a name such as text")
        for name, paths in (("paths", self.paths), ("val_paths", self.val_paths)):
            if not all(path.strip() for path in paths):
                raise ConfigError(f"data.{name} has an empty path; leave it out")
        if not self.tokenizer.strip():
            raise ConfigError(
                "data.tokenizer is empty: expected bytes, bpe:4096 or the path of a tokenizer.json"
            )
        bpe_vocabulary(self.tokenizer)


def bpe_vocabulary(tokenizer: str) -> int | None:
    """The vocabulary size in ``bpe:SIZE``, or None for any other tokenizer.

    Raises:
        ConfigError: SIZE is not a whole number in range.
    """
    name, colon, size = tokenizer.partition(":")
    if name != "bpe" or not (colon or size):
        return None
    if not (size.isascii() and size.isdigit()):
        raise ConfigError(
            f"data.tokenizer is '{tokenizer}': expected a whole number after bpe:, "
            "for example bpe:4096"
        )
    if not MIN_BPE_VOCABULARY <= int(size) <= MAX_BPE_VOCABULARY:
        raise ConfigError(
            f"data.tokenizer is '{tokenizer}': expected a vocabulary between "
            f"{MIN_BPE_VOCABULARY} and {MAX_BPE_VOCABULARY}, for example bpe:4096"
        )
    return int(size)

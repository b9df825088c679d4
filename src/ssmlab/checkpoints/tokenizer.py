"""The tokenizer that belongs to a checkpoint: found beside its weights, or given as a path."""

import json
from pathlib import Path
from typing import Any, TypeAlias

from ssmlab.checkpoints.formats import CONFIG_FILE, Format, read_json
from ssmlab.checkpoints.hub import checkpoint_folder
from ssmlab.core.errors import CheckpointError
from ssmlab.data.tokenize import ByteTokenizer, FileTokenizer, load_tokenizer_path

TOKENIZER_FILE = "tokenizer.json"
TokenizerLike: TypeAlias = ByteTokenizer | FileTokenizer


def load_tokenizer(path_or_repo_id: str | Path, revision: str | None = None) -> TokenizerLike:
    """The tokenizer of a checkpoint, or of a path.

    Args:
        path_or_repo_id: ``bytes``; a tokenizer.json, or a vocab.json that has its merges.txt beside
            it; a folder that holds one of these (a checkpoint's, or a trial's); or a name on the
            hub, for example ``EleutherAI/gpt-neox-20b``.
        revision: branch, tag or commit, for a hub name.

    Raises:
        CheckpointError: there is none.
        DataError: it is there but cannot be read.
    """
    if str(path_or_repo_id) == "bytes":
        return ByteTokenizer()
    path = Path(path_or_repo_id).expanduser()
    if path.is_file():
        return load_tokenizer_path(path)
    place = tokenizer_place(path_or_repo_id, revision)
    return ByteTokenizer() if place == "bytes" else load_tokenizer_path(Path(place))


def tokenizer_place(path_or_repo_id: str | Path, revision: str | None = None) -> str:
    """Where a checkpoint's tokenizer is: ``bytes`` or the path of its file, as data configs have it.

    Raises:
        CheckpointError: there is none.
    """
    folder = checkpoint_folder(path_or_repo_id, revision, weights=False)
    if _named(folder) == "bytes":
        return "bytes"
    for candidate in (TOKENIZER_FILE, "vocab.json"):
        if (folder / candidate).is_file():
            return str(folder / candidate)
    raise CheckpointError(
        f"{path_or_repo_id} has no {TOKENIZER_FILE} (nor vocab.json with merges.txt); name the "
        "tokenizer that the model was trained with: a tokenizer.json, a folder, or bytes (on the "
        "command line --tokenizer)"
    )


def _named(folder: Path) -> str | None:
    """What config.json says of the tokenizer: our own format's key, or a trial's."""
    if not (folder / CONFIG_FILE).is_file():
        return None
    raw = read_json(folder / CONFIG_FILE)
    data = raw.get("data")
    return raw.get("tokenizer") or (data.get("tokenizer") if isinstance(data, dict) else None)


def write_tokenizer(tokenizer: TokenizerLike, folder: Path, format: Format) -> str:
    """Write a tokenizer into a checkpoint's folder.

    Returns:
        What our own config.json says of it: ``bytes`` or ``tokenizer.json``.
    """
    if isinstance(tokenizer, ByteTokenizer):
        if format == "ssmlab":
            return "bytes"
        engine: Any = _bytes_as_file()
    else:
        engine = tokenizer.tokenizer
    (folder / TOKENIZER_FILE).write_text(engine.to_str(pretty=True), encoding="utf-8")
    if format == "transformers":
        end = None if tokenizer.end is None else engine.id_to_token(tokenizer.end)
        said = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **({} if end is None else {"eos_token": end, "bos_token": end, "pad_token": end}),
        }
        (folder / "tokenizer_config.json").write_text(
            json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return TOKENIZER_FILE


def _bytes_as_file() -> Any:
    """Our byte tokenizer as a tokenizer.json: the id of a token is its byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    # The byte-level alphabet writes a printable byte as itself, the others as 256, 257, ... in order.
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    engine: Any = Tokenizer(models.BPE({letter: byte for byte, letter in letters.items()}, []))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken(letters[255], special=True)])
    return engine

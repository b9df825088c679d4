"""Checkpoints: our own format and the two public Mamba formats, read and written."""

from ssmlab.checkpoints.load import from_pretrained, read_config
from ssmlab.checkpoints.save import save_pretrained
from ssmlab.checkpoints.tokenizer import load_tokenizer

__all__ = ["from_pretrained", "load_tokenizer", "read_config", "save_pretrained"]

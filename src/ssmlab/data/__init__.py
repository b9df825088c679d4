"""Text as tokens on disk, with a fixed split by document."""

from ssmlab.data.config import TextDataConfig

__all__ = ["TextDataConfig"]

"""Tokens to text as they come: whole characters only, nothing that a stop string may take back."""

import codecs
from typing import Any

from ssmlab.checkpoints.tokenizer import TokenizerLike
from ssmlab.data.tokenize import ByteTokenizer


class TextStream:
    """The text of one row.

    Attributes:
        text: what has been given out; all of it after ``finish``.
        stopped: a stop string was met; ``text`` ends before it.
    """

    def __init__(self, tokenizer: TokenizerLike, stop: tuple[str, ...]) -> None:
        self.text = ""
        self.stopped = False
        self._held = ""
        self._stop = stop
        self._decoder: Any
        self._engine: Any = None
        if isinstance(tokenizer, ByteTokenizer):
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        else:
            from tokenizers.decoders import DecodeStream

            self._engine = tokenizer.tokenizer
            self._decoder = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []

    def push(self, token: int) -> str:
        """Add a token; the text that is now certain."""
        if self._engine is None:
            new = self._decoder.decode(bytes([token]))
        else:
            new = self._decoder.step(self._engine, token) or ""
            self._ids.append(token)
            if new:
                self._ids.clear()
        self._held += new
        places = [(self._held.find(text), text) for text in self._stop]
        found = min((place for place, _ in places if place >= 0), default=-1)
        if found >= 0:
            self.stopped = True
            return self._give(found)
        return self._give(len(self._held) - self._doubtful())

    def finish(self) -> str:
        """What was held back; a character that never became whole is U+FFFD."""
        if self.stopped:
            return ""
        if self._engine is None:
            self._held += self._decoder.decode(b"", final=True)
        elif self._ids:
            self._held += self._engine.decode(self._ids, skip_special_tokens=True)
            self._ids.clear()
        return self._give(len(self._held))

    def _give(self, count: int) -> str:
        given, self._held = self._held[:count], self._held[count:]
        self.text += given
        return given

    def _doubtful(self) -> int:
        """Length of the end of the held text that may be the start of a stop string."""
        longest = max((len(text) - 1 for text in self._stop), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(text.startswith(self._held[-size:]) for text in self._stop):
                return size
        return 0

"""Generation: prompts read by the scan, tokens made one step at a time in constant memory."""

from ssmlab.generation.config import GenerationConfig
from ssmlab.generation.generate import Generated, Piece, generate, stream
from ssmlab.generation.session import Session

__all__ = ["Generated", "GenerationConfig", "Piece", "Session", "generate", "stream"]

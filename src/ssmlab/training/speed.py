"""Tokens per second of training alone."""

import time


class Speedometer:
    """Counts tokens against the time between laps.

    The first lap of a process is set apart: it holds compilation and cold caches, and a short run
    would report mostly those. ``restart`` leaves out what was done since the last lap.

    Args:
        tokens, seconds: totals of earlier processes of the same trial.
    """

    def __init__(self, tokens: int = 0, seconds: float = 0.0) -> None:
        self.tokens, self.seconds = tokens, seconds
        self._cold_speed: float | None = None
        self._window_tokens, self._window_seconds = 0, 0.0
        self._mark = time.perf_counter()

    def restart(self) -> None:
        """Leave out the time since the last lap."""
        self._mark = time.perf_counter()

    def lap(self, tokens: int) -> None:
        """``tokens`` were trained on since the last lap or restart."""
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        if self._cold_speed is None:
            self._cold_speed = tokens / max(seconds, 1e-9)
            return
        self.tokens += tokens
        self.seconds += seconds
        self._window_tokens += tokens
        self._window_seconds += seconds

    def window(self) -> float:
        """Tokens per second since the last call; of the first lap while there is no other."""
        tokens, seconds = self._window_tokens, self._window_seconds
        self._window_tokens, self._window_seconds = 0, 0.0
        return tokens / seconds if tokens and seconds else self.total()

    def total(self) -> float:
        """Tokens per second over all laps but the first of each process."""
        return self.tokens / self.seconds if self.seconds else self._cold_speed or 0.0

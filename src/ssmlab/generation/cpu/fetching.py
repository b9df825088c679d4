"""How far ahead decoding asks for the weights it will read: found by trying, in the first steps.

Both ways give the same numbers to the last bit. Which is faster is the processor's affair: to be told
of whole rows gave a third on Intel's of 2023 and took a fifth on AMD's of 2017, and what a virtual
machine says of its processor does not tell.
"""

from ssmlab.generation.cpu import matvec

FAR = 3072  # numbers of 4 bytes: best of 2 to 48 KiB where it gained
_WAYS = (0, FAR)
_SAMPLES = 5  # of each way
_LEAST = 1 << 26  # bytes of weights, below which caches hold much of them

_trials: dict[tuple[int, int, int], "Trial"] = {}


class Trial:
    """The times of each way, until there are enough to choose."""

    def __init__(self) -> None:
        self._times: dict[int, list[float]] = {way: [] for way in _WAYS}

    def way(self) -> int:
        """The way of the next step: that tried least, or at the end the faster one."""
        least = min(_WAYS, key=lambda way: len(self._times[way]))
        if len(self._times[least]) < _SAMPLES:
            return least
        # The best time of each: what disturbs a step only makes it longer.
        return min(_WAYS, key=lambda way: min(self._times[way]))

    def add(self, way: int, seconds: float) -> None:
        """A step took so long."""
        if len(self._times[way]) < _SAMPLES:
            self._times[way].append(seconds)


def find_trial(weight_bytes: int, batch: int, threads: int) -> Trial | None:
    """That of all steps of this size; None where there is no choice, or nothing to be told from."""
    if weight_bytes < _LEAST or batch >= matvec.ALWAYS_TOLD:
        return None
    return _trials.setdefault((weight_bytes, batch, threads), Trial())

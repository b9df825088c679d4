"""Learning curves made fit to draw: smoothed, thinned, averaged over seeds."""

from collections.abc import Sequence

# Points (training tokens, nats per token) in order of tokens.
Curve = list[tuple[int, float]]

_WINDOWS = 15
_MOST_POINTS = 160
_START = 0.08


def smooth(curve: Curve) -> Curve:
    """Centred running mean over about a fifteenth of the curve, then at most 160 points.

    The window shrinks towards the ends, so that neither end is drawn in.
    """
    reach = len(curve) // (2 * _WINDOWS)
    losses = [loss for _, loss in curve]
    smoothed = []
    for index, (tokens, _) in enumerate(curve):
        side = min(reach, index, len(curve) - 1 - index)
        window = losses[index - side : index + side + 1]
        smoothed.append((tokens, sum(window) / len(window)))
    stride = max(1, -(-len(smoothed) // _MOST_POINTS))
    return smoothed[::-1][::stride][::-1]  # counted from the end, so that the last point stays


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean over seeds at the token counts that all of them reached."""
    if not curves:
        return []
    tables = [dict(curve) for curve in curves]
    common = [tokens for tokens, _ in curves[0] if all(tokens in table for table in tables)]
    return [(tokens, sum(table[tokens] for table in tables) / len(tables)) for tokens in common]


def upper_limit(curve: Curve) -> float:
    """The highest loss after the steep start: what a plot must show of this curve."""
    start = _START * curve[-1][0]
    return max(loss for tokens, loss in curve if tokens >= start)

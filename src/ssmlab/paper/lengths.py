"""A study of ours on the length of training: whether H3's lag behind Mamba in Table 6 lasts.

At a few tokens a parameter the H3 architecture is behind Mamba's with every layer inside, where the
paper's is ahead with time-invariant ones. Base, scales and widths are Table 6's own, so a row of the
scale's own length is the trial there.
"""

from ssmlab.paper.table6 import TABLE6
from ssmlab.studies.claims import Claim, larger_gain
from ssmlab.studies.study import Axis, Point, Study

_ARCHITECTURES, _LAYERS = TABLE6.axes
_TIMES = (1, 4, 16)

LENGTHS = Study(
    name="lengths",
    title="Table 6's architectures around S4 (real), by length of training",
    source="ours: how much the order of architectures in Table 6 hangs on the number of tokens",
    # The lengths themselves are multiples of the scale's (``sizes``).
    axes=(
        _ARCHITECTURES,
        Axis("SSM layer", tuple(point for point in _LAYERS.points if point.label == "S4 (real)")),
        Axis("steps", tuple(Point(f"{times}x", {}, f"x{times}") for times in _TIMES)),
    ),
    base=TABLE6.base,
    scales=TABLE6.scales,
    figures={
        (*labels, "1x"): figure
        for labels, figure in TABLE6.figures.items()
        if labels[1] == "S4 (real)"
    },
    claims=(
        Claim(
            "catches-up",
            "The H3 architecture gains more than Mamba's by training longer, four times and again "
            "four times.",
            "Ours: why Table 6 has them the other way after a short training",
            tuple(
                larger_gain(
                    (f"h3-s4-real-x{short}", f"h3-s4-real-x{long}"),
                    than=(f"mamba-s4-real-x{short}", f"mamba-s4-real-x{long}"),
                )
                for short, long in ((1, 4), (4, 16))
            ),
        ),
    ),
    sizes={
        scale.name: {
            f"{block}-s4-real-x{times}": {
                **TABLE6.sizes[scale.name].get(f"{block}-s4-real", {}),
                **{
                    key: scale.changes[key] * times
                    for key in ("training.steps", "training.eval_every")
                },
            }
            for block in ("h3", "mamba")
            for times in _TIMES
        }
        for scale in TABLE6.scales
    },
)

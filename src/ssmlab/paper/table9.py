"""Table 9: the rank of the projection that makes Δ, with N = 16.

The ranks are the paper's at every scale, so at the quick scale (width 64, 128 channels) 64 is half
the channels and no longer a small fraction; "auto" there would be 4.
"""

from ssmlab.paper.base import BASE, SCALES, SOURCE
from ssmlab.studies.claims import TREND_NOTE, Claim, better, falling, falls
from ssmlab.studies.study import Axis, Figure, Point, Study

RANKS = (1, 2, 4, 8, 16, 32, 64)
_STATIC = Point("-", {"model.mamba.ssm.selective_delta": False}, key="static")

TABLE9 = Study(
    name="table9",
    title="Table 9: rank of the projection of Δ",
    source=f"{SOURCE}, Table 9",
    axes=(
        Axis(
            "Δ rank",
            (
                _STATIC,
                *(
                    Point(
                        str(rank),
                        {
                            "model.mamba.ssm.selective_delta": True,
                            "model.mamba.ssm.dt_rank": rank,
                        },
                        key=f"rank-{rank}",
                    )
                    for rank in RANKS
                ),
            ),
        ),
    ),
    base=BASE,
    scales=SCALES,
    figures={
        ("-",): Figure(9.12, 358.9),
        ("1",): Figure(8.97, 359.1),
        ("2",): Figure(8.97, 359.3),
        ("4",): Figure(8.91, 359.7),
        ("8",): Figure(8.83, 360.5),
        ("16",): Figure(8.84, 362.1),
        ("32",): Figure(8.80, 365.2),
        ("64",): Figure(8.71, 371.5),
    },
    claims=(
        Claim(
            "one",
            "A projection to one dimension already improves much on a Δ without selection.",
            "Table 9, caption",
            (better("rank-1", "static", by=0.01),),
            note="Much: more than 1% of perplexity, a bound of ours (the paper's figures give 1.6%).",
        ),
        Claim(
            "more",
            "A higher rank improves further.",
            "Table 9, caption",
            falling(("rank-1", "rank-8", "rank-64")),
            note="Tested over ranks 1, 8 and 64; the paper's own figures do not fall at every step.",
        ),
        Claim(
            "trend",
            "A higher rank improves further, over all ranks from 1 to 64 together.",
            "Ours: Table 9's caption, as a trend",
            (falls([f"rank-{rank}" for rank in RANKS]),),
            note=TREND_NOTE,
        ),
    ),
    plot="Δ rank",
)

"""Table 7: which of Δ, B and C depend on the input. (The paper has no rows with two of the three.)"""

from typing import Any

from ssmlab.paper.base import BASE, SCALES, SOURCE
from ssmlab.studies.claims import Claim, best, better, worst
from ssmlab.studies.study import Axis, Figure, Point, Study


def selective(delta: bool, B: bool, C: bool) -> dict[str, Any]:
    """The keys of a trial's config that say which of Δ, B and C depend on the input."""
    return {
        "model.mamba.ssm.selective_delta": delta,
        "model.mamba.ssm.selective_B": B,
        "model.mamba.ssm.selective_C": C,
    }


TABLE7 = Study(
    name="table7",
    title="Table 7: which parameters are selective",
    source=f"{SOURCE}, Table 7",
    axes=(
        Axis(
            "selective",
            (
                Point("none", selective(False, False, False)),
                Point("B only", selective(False, True, False)),
                Point("C only", selective(False, False, True)),
                Point("Δ only", selective(True, False, False)),
                Point("all", selective(True, True, True)),
            ),
        ),
    ),
    base=BASE,
    scales=SCALES,
    figures={
        ("none",): Figure(10.93),
        ("B only",): Figure(10.15),
        ("C only",): Figure(9.98),
        ("Δ only",): Figure(9.81),
        ("all",): Figure(8.71, 371.5),
    },
    claims=(
        Claim(
            "any",
            "Making any one of Δ, B and C selective helps: the row with none is the worst.",
            "Table 7, order of the rows",
            worst("none", ("b-only", "c-only", "delta-only", "all")),
        ),
        Claim(
            "delta",
            "Δ is the most important parameter: alone it helps more than B or C alone.",
            "Table 7, caption",
            (better("delta-only", "b-only"), better("delta-only", "c-only")),
        ),
        Claim(
            "together",
            "Several selective parameters together do better than any one of them.",
            'Table 7, caption ("together synergizes")',
            best("all", ("b-only", "c-only", "delta-only")),
            note="Read as: the full row is the best. Gains that add to more than their sum are not "
            "claimed by the paper's figures: the three single gains in log-perplexity sum to 0.273, "
            "all together gain 0.227.",
        ),
    ),
)

"""Table 8: how A is initialised, with everything selective."""

from ssmlab.paper.base import BASE, SCALES, SOURCE
from ssmlab.studies.claims import Claim, alike, better
from ssmlab.studies.study import Axis, Figure, Point, Study

_KEY = "model.mamba.ssm.a_init"

TABLE8 = Study(
    name="table8",
    title="Table 8: how A is initialised",
    source=f"{SOURCE}, Table 8",
    axes=(
        Axis(
            "A_n",
            (
                Point("-1/2 + ni (complex)", {_KEY: "s4d-lin-printed"}, key="complex-ni"),
                # The paper calls its row S4D-Lin, which in its source has a π; it prints none.
                Point("-1/2 + πni (complex)", {_KEY: "s4d-lin"}, key="complex-pi-ni"),
                Point("-1/2 (real)", {_KEY: "constant"}, key="real-half"),
                Point("-(n+1) (real)", {_KEY: "s4d-real"}, key="real-n"),
                Point("-exp(N(0,1)) (real)", {_KEY: "random"}, key="real-random"),
            ),
        ),
    ),
    base=BASE,
    scales=SCALES,
    figures={
        ("-1/2 + ni (complex)",): Figure(9.16),
        ("-1/2 (real)",): Figure(8.85),
        ("-(n+1) (real)",): Figure(8.71, 371.5),
        ("-exp(N(0,1)) (real)",): Figure(8.71),
    },
    claims=(
        Claim(
            "complex",
            "The complex initialisation S4D-Lin does worse than S4D-Real or a random real one, when "
            "the model is selective.",
            "Table 8, caption",
            (better("real-n", "complex-ni"), better("real-random", "complex-ni")),
            note="The row as printed, -1/2 + ni. The row with π is ours: S4D defines S4D-Lin so.",
        ),
        Claim(
            "half",
            "A constant A = -1/2 lies between: better than the complex one, worse than -(n+1).",
            "Table 8, order of the rows",
            (better("real-half", "complex-ni"), better("real-n", "real-half")),
        ),
        Claim(
            "random",
            "A random real A does as well as -(n+1).",
            "Table 8, equal figures",
            alike("real-random", "real-n", 0.01),
            note="As well: perplexities within 1% of each other, a margin of ours.",
        ),
    ),
)

"""Every row of the tables, the hybrids and our own studies, each once, in one queue.

Run one after the other, studies would leave workers idle at the end of each, and rows that several
have in common would wait for each other. Run this one instead, and then each of its parts with
``--reuse``: it finds all of its trials there.

Left out are ``spread``, ``lengths`` and the studies of rates: their seeds and cost are their own.
"""

from collections.abc import Mapping
from typing import Any

from ssmlab.paper.base import BASE, SCALES
from ssmlab.paper.beyond import PAIRS, SELECTIVE_A, STATE
from ssmlab.paper.hybrids import HYBRIDS
from ssmlab.paper.ssd import SSD
from ssmlab.paper.table6 import TABLE6
from ssmlab.paper.table7 import TABLE7
from ssmlab.paper.table8 import TABLE8
from ssmlab.paper.table9 import TABLE9
from ssmlab.paper.table10 import TABLE10
from ssmlab.studies.claims import RowName
from ssmlab.studies.study import Axis, Point, Study

PARTS = (TABLE6, TABLE7, TABLE8, TABLE9, TABLE10, HYBRIDS, PAIRS, STATE, SSD, SELECTIVE_A)


def _union() -> Study:
    """One row for rows that are the same trial at every scale."""
    from ssmlab.core.config import flatten, to_dict
    from ssmlab.training.config import TrialConfig

    default = flatten(to_dict(TrialConfig()))
    seen: set[Any] = set()
    points: list[Point] = []
    sizes: dict[str, dict[RowName, Mapping[str, Any]]] = {scale.name: {} for scale in SCALES}
    for part in PARTS:
        by_scale = {name: part.trials(name, seeds=1) for name in sizes}
        for index, row in enumerate(part.rows()):
            configs = {name: trials[index].config for name, trials in by_scale.items()}
            identity = tuple(config.effective() for config in configs.values())
            if identity in seen:
                continue
            seen.add(identity)
            point = Point(f"{part.name}: {row.label}", {}, f"{part.name}-{row.key}")
            points.append(point)
            for name, config in configs.items():
                keys = flatten(to_dict(config))
                sizes[name][point.key] = {k: v for k, v in keys.items() if v != default[k]}
    return Study(
        name="replication",
        title="Every row of section 4.6, of Figure 9 and of our own studies, each once",
        source="arXiv 2312.00752, section 4.6 and appendix E.2.2; the parts say more",
        axes=(Axis("row", tuple(points)),),
        base=BASE,
        scales=SCALES,
        sizes=sizes,
    )


REPLICATION = _union()
"""Its rows are named after the first study that has them."""

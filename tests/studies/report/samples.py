"""Hand-made reports: no training, no store."""

import dataclasses
import math
import random
from typing import Any

from ssmlab.studies.report.data import (
    ClaimView,
    ContrastView,
    CurvePoint,
    OrderView,
    ReportData,
    RowView,
    TrialView,
)

TABLE7 = {"none": 10.93, "B": 10.15, "C": 9.98, "Δ": 9.81, "Δ, B, C": 8.71}


def trial(seed: int, ppl: float, points: int = 60, vals: int = 5, **changes: Any) -> TrialView:
    """A finished trial that ends near ``ppl``, with learning curves."""
    draw = random.Random(f"{seed} {ppl}")
    loss, tokens = math.log(ppl), 2_000_000

    def at(part: float) -> float:
        return loss + (5.5 - loss) * math.exp(-9 * part**0.5) + draw.gauss(0, 0.01)

    train = [CurvePoint(tokens * i // points, at(i / points)) for i in range(1, points + 1)]
    val = [CurvePoint(tokens * i // vals, at(i / vals) + 0.02) for i in range(1, vals + 1)]
    view = TrialView(
        name=f"row-s{seed}-0123456789",
        hash="0123456789",
        seed=seed,
        state="done",
        val_loss=loss,
        val_ppl=ppl,
        bits_per_byte=loss / math.log(2),
        train_loss=loss - 0.02,
        steps=points * 10,
        tokens=tokens,
        seconds=41.3,
        tokens_per_second=52_345.6,
        n_params=206_400,
        train=tuple(train),
        val=tuple(val),
    )
    return dataclasses.replace(view, **changes)


def row(labels: tuple[str, ...], ppls: list[float], **changes: Any) -> RowView:
    """A row with one finished trial per perplexity."""
    trials = tuple(trial(seed, ppl) for seed, ppl in enumerate(ppls))
    mean = math.exp(sum(map(math.log, ppls)) / len(ppls)) if ppls else None
    spread = (max(ppls) - min(ppls)) * 1.2 if len(ppls) > 1 and mean else None
    view = RowView(
        labels=labels,
        trials=trials,
        mean=mean,
        low=None if mean is None or spread is None else mean - spread,
        high=None if mean is None or spread is None else mean + spread,
        n=len(ppls),
        n_params=206_400,
        tokens=2_000_000,
        seconds=41.3,
    )
    return dataclasses.replace(view, **changes)


def report(seeds: int = 3, **changes: Any) -> ReportData:
    """Table 7 with all trials finished; best row last."""
    draw = random.Random(7)
    rows = []
    for label, paper in TABLE7.items():
        ours = 2.4 + (paper - 8.71) * 0.22
        ppls = [ours + draw.gauss(0, 0.012) for _ in range(seeds)]
        rows.append(row((label,), ppls, paper_ppl=paper, paper_params_m=371.5))
    best = min(r.mean for r in rows if r.mean is not None)
    rows = [dataclasses.replace(r, versus_best=r.mean / best - 1) for r in rows if r.mean]
    few = seeds < 2
    contrast = ContrastView(
        "Δ, B, C < Δ",
        estimate=-0.0962,
        low=None if few else -0.112,
        high=None if few else -0.081,
        p=None if few else 0.00021,
        p_against=None if few else 0.99979,
        df=None if few else 3.7,
        n=seeds,
        reason="1 seed of Δ: no spread to test against; run at least 2 seeds" if few else None,
        decisive=True,
    )
    other = dataclasses.replace(contrast, text="Δ, B, C < C", estimate=-0.12, decisive=False)
    weak = dataclasses.replace(
        contrast, text="B < C", estimate=0.0011, low=-0.02, high=0.022, p=0.5
    )
    against = dataclasses.replace(weak, estimate=0.03, low=0.01, high=0.05, p=0.99, p_against=0.01)
    if few:
        none = {"low": None, "high": None, "p": None, "p_against": None}
        weak, against = (dataclasses.replace(c, **none) for c in (weak, against))
    claims = (
        ClaimView(
            "all-best",
            "All three selective is better than any one alone.",
            "Table 7",
            "undecided" if few else "holds",
            contrast.reason or "all 2 comparisons; the closest: Δ, B, C < Δ: -9.17%, 3 seeds",
            contrasts=(contrast, other),
        ),
        ClaimView(
            "b-c", "B alone is better than C alone.", "Table 7", "undecided",
            "within the spread of the seeds: B < C", "Our reading.", (weak,),
        ),
        ClaimView(
            "c-b", "C beats B.", "Section 4.6.1", "undecided" if few else "does not", "contradicted",
            "", (against,),
        ),
    )  # fmt: skip
    order = OrderView(1.0, 5, 0.0167, None, "Δ, B, C", "Δ, B, C", "none", "none")
    view = ReportData(
        name="table7",
        title="Which parameters are selective",
        source="Gu & Dao, Mamba, section 4.6.1, Table 7",
        scale="quick",
        scale_note="2 layers of width 64, minutes on a CPU",
        axes=("Selective",),
        rows=tuple(rows),
        claims=claims,
        order=order,
        n_seeds=seeds,
        facts=(
            ("Data", "Python standard library, 1,712 files, 31.2 MB, bytes"),
            ("Seeds", str(seeds)),
            ("Device", "Intel(R) Xeon(R) CPU"),
        ),
        notes=("Perplexities are not comparable with the paper's; the order of rows is.",),
        commands=(
            f"ssmlab study run table7 --scale quick --seeds {seeds} --out runs/table7-quick",
        ),
        version="0.1.0",
    )
    return dataclasses.replace(view, **changes)


def grid(seeds: int = 3) -> ReportData:
    """Table 10: two axes, one of them plotted."""
    paper = {
        "constant": (9.88, 9.86, 9.82, 9.82, 9.81),
        "selective": (9.73, 9.40, 9.09, 8.84, 8.71),
    }
    params = (367.1, 367.4, 368.0, 369.1, 371.5)
    draw = random.Random(10)
    rows = []
    for kind, figures in paper.items():
        for state, figure, size in zip((1, 2, 4, 8, 16), figures, params, strict=True):
            ppls = [2.3 + 0.2 * (figure - 8.71) + draw.gauss(0, 0.008) for _ in range(seeds)]
            rows.append(row((kind, str(state)), ppls, paper_ppl=figure, paper_params_m=size))
    best = min(r.mean for r in rows if r.mean is not None)
    rows = [dataclasses.replace(r, versus_best=r.mean / best - 1) for r in rows if r.mean]
    return report(
        seeds, name="table10", title="State size", axes=("B and C", "N"), rows=tuple(rows),
        plot_axis="N",
    )  # fmt: skip


def partial() -> ReportData:
    """A study half done: a diverged trial, an unfinished one, a row with nothing."""
    whole = report()
    rows = list(whole.rows)
    broken = TrialView(
        "c-s2-00", "00", 2, "diverged", "loss nan at step 7 of 200", steps=7, tokens=14_336
    )
    begun = TrialView("d-s2-00", "00", 2, "partial")
    waiting = tuple(TrialView(f"e-s{s}-00", "00", s, "pending") for s in range(3))
    rows[2] = dataclasses.replace(rows[2], trials=(*rows[2].trials[:2], broken), n=2)
    rows[3] = dataclasses.replace(rows[3], trials=(*rows[3].trials[:2], begun), n=2)
    rows[4] = RowView(("Δ, B, C",), waiting, paper_ppl=8.71, paper_params_m=371.5)
    rows[3] = dataclasses.replace(rows[3], versus_best=0.0)
    return dataclasses.replace(whole, rows=tuple(rows))

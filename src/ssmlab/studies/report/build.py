"""From a study's folder to ReportData: means, tests and curves of what there is so far."""

import dataclasses
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmlab.studies.archive import study_folder
from ssmlab.studies.claims import RowName
from ssmlab.studies.report.data import (
    ClaimView,
    ContrastView,
    CurvePoint,
    OrderView,
    ReportData,
    RowView,
    SpreadView,
    TrialView,
)
from ssmlab.studies.report.facts import commands, facts, notes
from ssmlab.studies.report.text import labels_text
from ssmlab.studies.spread import Samples, Spread, spread_of
from ssmlab.studies.statistics import (
    ContrastTest,
    Verdict,
    judge,
    kendall_tau,
    pair_agreement,
    row_interval,
)
from ssmlab.studies.store import StudyResults, TrialRecord, load_results
from ssmlab.studies.study import Row, Study

_SEEDS_OF_A_SPREAD = 5  # with fewer, a standard deviation may as well be twice or half of it


def build_report(out: Path | str) -> ReportData:
    """All that can be said of the study in folder (or packed file) ``out``, finished or not.

    What it says follows from the folder alone, and from a packed file wherever that lies.

    Raises:
        StudyError: there is no study in ``out``.
        StorageError: a file of it cannot be read.
    """
    out = Path(out)
    with study_folder(out) as folder:
        return report_of(load_results(folder), None if folder == out else out.name)


def report_of(results: StudyResults, archive: str | None = None) -> ReportData:
    """The same from results at hand, and the name of the file that they were packed in, if any."""
    study, samples = results.study, results.samples()
    spread = spread_of(samples)
    rows = _versus_best([_row(results, row, samples, spread) for row in study.rows()])
    diverged = results.diverged()
    keys = [row.key for row in study.rows()]
    environments = [e for t in results.trials if (e := t.environment()) is not None]
    configs = [c for t in results.trials if (c := t.config()) is not None]
    scale = study.scale(results.scale)
    return ReportData(
        name=study.name,
        title=study.title,
        source=study.source,
        scale=scale.name,
        scale_note=scale.note,
        axes=tuple(axis.name for axis in study.axes),
        rows=tuple(rows),
        claims=tuple(
            _claim(judge(claim, samples, study, diverged, spread=spread), study)
            for claim in study.claims
        ),
        order=_order(dict(zip(keys, rows, strict=True)), samples, study, spread),
        n_seeds=results.seeds,
        spread=_spread(spread, samples, results.seeds, study),
        plot_axis=study.plot,
        facts=facts(results, rows, environments, configs),
        notes=notes(results, rows, environments),
        commands=commands(results, environments, archive),
        version=results.version,
        archive=archive,
    )


def _row(results: StudyResults, row: Row, samples: Samples, spread: Spread) -> RowView:
    trials = tuple(_trial(record) for record in results.of_row(row))
    done = [trial for trial in trials if trial.state == "done"]
    ended = done or [trial for trial in trials if trial.n_params is not None]
    interval = row_interval(samples, row.key, spread)
    figure = results.study.figure(row)
    times = [trial.seconds for trial in done if trial.seconds is not None]
    return RowView(
        labels=row.labels,
        trials=trials,
        mean=None if interval is None else _finite(interval.mean),
        low=None if interval is None else _finite(interval.low),
        high=None if interval is None else _finite(interval.high),
        n=0 if interval is None else interval.n,
        n_params=ended[0].n_params if ended else None,
        tokens=ended[0].tokens if ended else None,
        seconds=math.fsum(times) / len(times) if times else None,
        paper_ppl=figure.ppl,
        paper_params_m=figure.params_m,
    )


def _spread(spread: Spread, samples: Samples, seeds: int, study: Study) -> SpreadView | None:
    if (deviation := spread.deviation) is None:
        return None
    least = spread.least_difference(seeds)
    assert least is not None
    axes = [axis.name for axis in study.axes]
    own = tuple(
        (labels_text(study.row(row).labels, axes), math.sqrt(variance))
        for row, (variance, _) in spread.own.items()
    )
    by_row = tuple(
        (labels_text(row.labels, axes), statistics.stdev(samples[row.key].values()))
        for row in study.rows()
        if len(samples.get(row.key, ())) >= _SEEDS_OF_A_SPREAD
    )
    return SpreadView(deviation, spread.df, spread.rows, seeds, least, own, by_row)


def _versus_best(rows: Sequence[RowView]) -> list[RowView]:
    best = min((row.mean for row in rows if row.mean is not None), default=None)
    return [
        row
        if row.mean is None or best is None
        else dataclasses.replace(row, versus_best=row.mean / best - 1)
        for row in rows
    ]


def _trial(record: TrialRecord) -> TrialView:
    result: Mapping[str, Any] = record.result or {}
    train, val = _curves(record)
    return TrialView(
        name=record.name,
        hash=record.name.rpartition("-")[2],
        seed=record.seed,
        state=record.state,
        reason=record.error,
        val_loss=_finite(result.get("val_loss")),
        val_ppl=_finite(result.get("val_ppl")),
        bits_per_byte=_finite(result.get("val_bits_per_byte")),
        train_loss=_finite(result.get("train_loss")),
        steps=result.get("steps", record.step),
        tokens=result.get("tokens"),
        seconds=_finite(result.get("seconds")),
        tokens_per_second=_finite(result.get("tokens_per_second")),
        n_params=result.get("n_params"),
        peak_memory_bytes=result.get("peak_memory_bytes"),
        origin=str(origin.get("study")) if (origin := record.origin()) is not None else None,
        train=train,
        val=val,
    )


def _curves(record: TrialRecord) -> tuple[tuple[CurvePoint, ...], tuple[CurvePoint, ...]]:
    found: dict[str, dict[int, float]] = {"train": {}, "val": {}}
    for line in record.metrics():
        tokens, loss = line.get("tokens"), _finite(line.get("loss"))
        if line["split"] in found and isinstance(tokens, int) and loss is not None:
            found[line["split"]][tokens] = loss
    train, val = (
        tuple(CurvePoint(tokens, loss) for tokens, loss in sorted(found[split].items()))
        for split in ("train", "val")
    )
    return train, val


def _claim(verdict: Verdict, study: Study) -> ClaimView:
    claim = verdict.claim
    return ClaimView(
        key=claim.key,
        text=claim.text,
        source=claim.source,
        verdict=verdict.decision,
        reason=_reason(verdict, study),
        note=claim.note,
        contrasts=tuple(_contrast(test, study, verdict.decisive) for test in verdict.tests),
    )


def _reason(verdict: Verdict, study: Study) -> str:
    """Which comparison decided, in words; its figures stand beside it."""
    said, count = _statement(verdict.decisive, study), len(verdict.tests)
    if verdict.decision == "does not":
        text = f"Contradicted: {said}."
    elif verdict.decisive.p is None:
        text = f"Not tested: {verdict.decisive.reason}."
    elif verdict.decision == "undecided":
        text = f"Within the spread of the seeds: {said}."
    else:
        text = f"All {count} comparisons hold; the closest: {said}." if count > 1 else f"{said}."
    if verdict.excluded:
        text += f" Left out, diverged: {', '.join(verdict.excluded)}."
    return text


def _statement(test: ContrastTest, study: Study) -> str:
    """A comparison of two rows by their labels, any other contrast in its own words."""
    below, axes = test.contrast.below, [axis.name for axis in study.axes]
    names = {weight: row for row, weight in test.contrast.weights.items() if weight}
    if len(test.contrast.weights) != 2 or set(names) != {1.0, -1.0}:
        return _with_labels(test.contrast.text, test.contrast.weights, study)
    a, b = (labels_text(study.row(names[weight]).labels, axes) for weight in (1.0, -1.0))
    margin = f"{100 * abs(math.expm1(below)):.3g}%"
    if below > 0:
        return f"{a} at most {margin} above {b}"
    return f"{a} below {b}" + (f" by more than {margin}" if below < 0 else "")


def _with_labels(text: str, rows: Iterable[RowName], study: Study) -> str:
    """``text`` with the keys of ``rows`` in it as the labels that the table shows."""
    axes = [axis.name for axis in study.axes]
    labels = {row.key: labels_text(row.labels, axes) for row in map(study.row, rows)}
    keys = "|".join(map(re.escape, sorted(labels, key=len, reverse=True)))
    found = re.sub(rf"(?<![\w-])(?:{keys})(?![\w-])", lambda key: labels[key[0]], text)
    return found or "weighted sum of " + ", ".join(labels.values())


def _contrast(test: ContrastTest, study: Study, decisive: ContrastTest) -> ContrastView:
    return ContrastView(
        text=_statement(test, study),
        estimate=_finite(test.estimate),
        low=_finite(test.low),
        high=_finite(test.high),
        bound=test.contrast.below,
        p=_finite(test.p),
        p_against=_finite(test.p_against),
        df=_finite(test.df),
        n=test.n,
        reason=test.reason,
        decisive=test is decisive,
    )


def _order(
    rows: Mapping[str, RowView], samples: Samples, study: Study, spread: Spread
) -> OrderView:
    """Kendall's tau, the pairs that seeds tell apart, and the best and worst rows, over the rows with
    a figure on both sides."""
    both = {
        key: (row.mean, row.paper_ppl)
        for key, row in rows.items()
        if row.mean is not None and row.paper_ppl is not None
    }
    printed = sum(row.paper_ppl is not None for row in rows.values())
    ours = {key: mean for key, (mean, _) in both.items()}
    paper = {key: ppl for key, (_, ppl) in both.items()}
    axes = [axis.name for axis in study.axes]
    names = {key: labels_text(row.labels, axes) for key, row in rows.items()}
    agreement = kendall_tau(ours, paper)
    if agreement is None:
        note = (
            "The paper prints no figures for these rows."
            if not printed
            else f"{len(both)} of the paper's {printed} rows have a figure here: no order to compare."
        )
        return OrderView(None, len(both), note=note)
    note = None
    if len(both) < printed:
        note = f"The paper prints {printed}; the others have no figure here."
    pairs = pair_agreement(samples, paper, study, spread)
    return OrderView(
        tau=agreement.tau,
        n=agreement.n,
        p=_finite(agreement.p),
        note=note,
        best_ours=_at(names, ours, min),
        best_paper=_at(names, paper, min),
        worst_ours=_at(names, ours, max),
        worst_paper=_at(names, paper, max),
        pairs=pairs.pairs,
        told_apart=pairs.told_apart,
        as_in_paper=pairs.as_in_paper,
    )


def _at(names: Mapping[str, str], values: Mapping[str, float], choose: Any) -> str:
    """The row at the least or greatest value; all of them where the paper's rounding ties."""
    end = choose(values.values())
    return " and ".join(names[key] for key, value in values.items() if value == end)


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

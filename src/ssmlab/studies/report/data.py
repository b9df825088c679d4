"""What a report says, as plain data: no store, no files, no drawing.

All numbers are finite or None. Perplexities are exp(nats per token) on held-out text.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ssmlab.studies.report.text import ppl_decimals, ppl_text

TrialState = Literal["pending", "running", "partial", "done", "diverged", "failed"]
STATE_WORDS: dict[str, str] = {
    "done": "finished",
    "diverged": "diverged",
    "failed": "failed",
    "running": "running",
    "partial": "stopped",
    "pending": "not begun",
}
VERDICTS = ("holds", "does not", "undecided")


@dataclass(frozen=True)
class CurvePoint:
    """One point of a learning curve: training tokens seen, nats per token."""

    tokens: int
    loss: float


@dataclass(frozen=True)
class TrialView:
    """One trial of a row.

    Attributes:
        name: the trial's folder name; ``hash`` the digest of its resolved config.
        state: as the store says; ``reason`` is why it ``diverged`` or ``failed``.
        origin: the study that it was taken over from; None if it ran in this one.
        train, val: its learning curves, in order of tokens.
    """

    name: str
    hash: str
    seed: int
    state: TrialState
    reason: str | None = None
    val_loss: float | None = None
    val_ppl: float | None = None
    bits_per_byte: float | None = None
    train_loss: float | None = None
    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    n_params: int | None = None
    peak_memory_bytes: int | None = None
    origin: str | None = None
    train: tuple[CurvePoint, ...] = ()
    val: tuple[CurvePoint, ...] = ()


@dataclass(frozen=True)
class RowView:
    """One row of the table: a point of the product of the study's axes.

    Attributes:
        labels: one label per axis.
        trials: one per seed, in order of seeds.
        mean: perplexity at the mean loss of the seeds that finished; None if none did.
        low, high: its 95% interval; None where no row has two seeds.
        n: seeds in the mean.
        versus_best: mean over the best row's mean, less 1; 0 for the best row.
        paper_ppl, paper_params_m: the paper's printed figures; parameters in millions.
    """

    labels: tuple[str, ...]
    trials: tuple[TrialView, ...] = ()
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    versus_best: float | None = None
    n_params: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    paper_ppl: float | None = None
    paper_params_m: float | None = None

    @property
    def label(self) -> str:
        """The row's labels in one text."""
        return ", ".join(self.labels)

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval of the mean."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def best(self) -> bool:
        """Whether no finished row has a lower mean."""
        return self.versus_best == 0

    @property
    def broken(self) -> bool:
        """Whether a trial of it diverged or failed."""
        return any(trial.state in ("diverged", "failed") for trial in self.trials)

    @property
    def note(self) -> str | None:
        """Why the row has no figure, or fewer seeds than were asked for, if so."""
        states = [trial.state for trial in self.trials if trial.state != "done"]
        counts = {word: states.count(state) for state, word in STATE_WORDS.items()}
        parts = [f"{count} {word}" for word, count in counts.items() if count]
        return ", ".join(parts) or None


@dataclass(frozen=True)
class ContrastView:
    """One inequality of a claim: a weighted sum of log-perplexities below ``bound``.

    ``estimate``, ``low``, ``high`` and ``bound`` are natural logarithms of perplexity ratios; ``p``
    is the one-sided chance of an estimate this low at the bound, ``p_against`` of one this high.
    """

    text: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    bound: float = 0.0
    p: float | None = None
    p_against: float | None = None
    df: float | None = None
    n: int = 0
    reason: str | None = None
    decisive: bool = False


@dataclass(frozen=True)
class ClaimView:
    """A claim of the paper and what this study says of it.

    Attributes:
        verdict: ``holds``, ``does not`` or ``undecided``.
        reason: why, in a line.
        note: how the claim was read, where the paper leaves that open.
        contrasts: what was tested; one of them decided.
    """

    key: str
    text: str
    source: str
    verdict: str
    reason: str
    note: str = ""
    contrasts: tuple[ContrastView, ...] = ()

    @property
    def decisive(self) -> ContrastView | None:
        """The contrast that decided."""
        return next((contrast for contrast in self.contrasts if contrast.decisive), None)


@dataclass(frozen=True)
class OrderView:
    """Agreement of our order of rows with the paper's: Kendall's tau-b over ``n`` rows.

    ``pairs`` of rows differ in the paper; ours are ``told_apart`` by their seeds, and of those
    ``as_in_paper`` stand in the paper's order.
    """

    tau: float | None
    n: int
    p: float | None = None
    note: str | None = None
    best_ours: str | None = None
    best_paper: str | None = None
    worst_ours: str | None = None
    worst_paper: str | None = None
    pairs: int = 0
    told_apart: int = 0
    as_in_paper: int = 0


@dataclass(frozen=True)
class SpreadView:
    """How far seeds scatter, in nats (which is a relative change of the perplexity, if small).

    Attributes:
        deviation: standard deviation of one trial, pooled over ``rows`` rows.
        df: degrees of freedom of that.
        least_difference: how far two rows of ``seeds`` seeds must be apart for the 95% interval of
            their difference to leave out 0.
        own: labels and standard deviations of rows that scatter by far more; not in the pool.
        by_row: the same of every row with enough seeds to say something of its own spread.
    """

    deviation: float
    df: int
    rows: int
    seeds: int
    least_difference: float
    own: tuple[tuple[str, float], ...] = ()
    by_row: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class ReportData:
    """A whole report. ``facts`` are (name, value) pairs of what was run; ``notes`` cautions.

    ``archive`` is the name of the file that the study is packed in, if it was read from one.
    """

    name: str
    title: str
    source: str
    scale: str
    scale_note: str
    axes: tuple[str, ...]
    rows: tuple[RowView, ...]
    claims: tuple[ClaimView, ...]
    order: OrderView
    n_seeds: int
    spread: SpreadView | None = None
    plot_axis: str | None = None
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    version: str = ""
    archive: str | None = None

    @property
    def trials(self) -> tuple[TrialView, ...]:
        """Every trial, row by row."""
        return tuple(trial for row in self.rows for trial in row.trials)

    @property
    def counts(self) -> dict[str, int]:
        """How many trials there are in all and in each state."""
        states = [trial.state for trial in self.trials]
        return {"total": len(states), **{state: states.count(state) for state in STATE_WORDS}}

    @property
    def complete(self) -> bool:
        """Whether every trial has ended, with a figure or diverged."""
        counts = self.counts
        return counts["done"] + counts["diverged"] == counts["total"]

    @property
    def verdicts(self) -> dict[str, int]:
        """How many claims have each verdict."""
        return {name: sum(c.verdict == name for c in self.claims) for name in VERDICTS}

    @property
    def decimals(self) -> int:
        """Decimals that tell our perplexities apart."""
        means = [row.mean for row in self.rows if row.mean is not None]
        widths = [row.half_width for row in self.rows if row.half_width is not None]
        return ppl_decimals(means, widths)

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows of the main table for a terminal; a cell without a value is None."""
        columns = [*self.axes, "perplexity", "vs best", "paper", "params M", "paper M", "seeds"]
        rows: list[list[Any]] = []
        for row in self.rows:
            ppl = None
            if row.mean is not None:  # a figure is not torn from its interval in a narrow terminal
                ppl = ppl_text(row.mean, row.half_width, self.decimals)
                ppl = ppl.replace(" ", "\N{NO-BREAK SPACE}")
            if row.note:
                ppl = f"{ppl} ({row.note})" if ppl else row.note
            versus = None
            if row.versus_best is not None:
                versus = "best" if row.best else f"{100 * row.versus_best:+.1f}%"
            params = None if row.n_params is None else row.n_params / 1e6
            paper = [row.paper_ppl, params, row.paper_params_m]
            rows.append([*row.labels, ppl, versus, *paper, row.n])
        return columns, rows

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: everything but the learning curves, which the trials' folders hold."""
        data = dataclasses.asdict(self)
        for row, view in zip(data["rows"], self.rows, strict=True):
            row["label"], row["best"], row["note"] = view.label, view.best, view.note
            row["half_width"] = view.half_width
            for trial in row["trials"]:
                del trial["train"], trial["val"]
        data["facts"] = dict(self.facts)
        data["counts"], data["complete"] = self.counts, self.complete
        data["verdicts"] = self.verdicts
        return _plain(data)


def _plain(value: Any) -> Any:
    """Tuples as lists, and no number that JSON cannot hold."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value - value != 0:  # NaN and both infinities
        return None
    return value

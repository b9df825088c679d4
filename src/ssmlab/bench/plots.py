"""Figures of the model benchmarks, as PNG files."""

from pathlib import Path
from typing import Any

from ssmlab.bench.shares import OTHER
from ssmlab.core.files import write_atomic


def plot_train(rows: list[dict[str, Any]], path: Path | str) -> None:
    """Share of the time by kind of kernel, a bar for each model and way to recompute."""
    figure, axes = _figure(7.5, 1.2 + 0.6 * len(rows))
    kinds = sorted({k for row in rows for k in row["shares"]}, key=lambda kind: kind == OTHER)
    labels = [
        f"{row['model']}, {row['recompute']}\n{row['tokens_per_s']:,.0f} tokens/s" for row in rows
    ]
    left = [0.0] * len(rows)
    for kind in kinds:
        widths = [row["shares"].get(kind, 0.0) for row in rows]
        axes.barh(labels, widths, left=left, label=kind)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.set_xlabel("share of a training step's device time")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=3, frameon=False, fontsize=8)
    _save(figure, path)


def plot_memory(rows: list[dict[str, Any]], path: Path | str) -> None:
    """Memory over batch size, a line for each way to recompute and the paper's two."""
    figure, axes = _figure(6.5, 4.2)
    value = "peak_gb" if any(row["peak_gb"] is not None for row in rows) else "kept_gb"
    for level in dict.fromkeys(row["recompute"] for row in rows):
        points = [
            (row["batch_size"], row[value])
            for row in rows
            if row["recompute"] == level and row[value] is not None
        ]
        axes.plot(*zip(*points, strict=True), marker="o", label=f"ssmlab, recompute {level}")
    if value == "peak_gb":
        for column, label in (("paper_mamba_gb", "Mamba"), ("paper_transformer_gb", "Transformer")):
            points = sorted({(r["batch_size"], r[column]) for r in rows if r[column] is not None})
            if points:
                axes.plot(
                    *zip(*points, strict=True), "--", label=f"{label}, Table 15 (A100)", alpha=0.7
                )
    axes.set_xlabel("batch size")
    axes.set_ylabel("GB, most held" if value == "peak_gb" else "GB, kept for the backward pass")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    # Not pyplot: it would keep the figure and may look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path | str) -> None:
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))

"""Numbers as text, escaping, and curves made fit to draw."""

import math

import pytest

from ssmlab.studies.report import text
from ssmlab.studies.report.curves import mean_curve, smooth, upper_limit


@pytest.mark.parametrize(
    ("means", "widths", "decimals"),
    [([], [], 2), ([3.0], [], 2), ([3.0, 3.5], [], 2), ([3.0, 3.04], [], 3),
     ([3.0, 3.5], [0.012, 0.02], 3), ([3.0, 3.000001], [1e-9], 4), ([30.0, 90.0], [5.0], 2)],
)  # fmt: skip
def test_decimals_tell_rows_apart(means: list[float], widths: list[float], decimals: int) -> None:
    assert text.ppl_decimals(means, widths) == decimals


def test_numbers() -> None:
    assert text.ppl_text(3.2104, 0.052, 2) == "3.21 ± 0.05"
    assert text.ppl_text(3.2104, None, 2) == "3.21"
    assert text.ppl_text(None, None, 2) == "–"
    assert text.signed_percent(-0.0312) == "−3.1%"
    assert text.signed_percent(-0.00001) == "0.0%"
    assert text.log_percent(math.log(0.9)) == "−10.0%"
    assert text.log_percent(math.log(20)) == "×20"
    assert text.log_percent(1000.0) == "more than e⁵⁰ times"
    assert text.log_percent(math.log(1.001)) == "+0.10%"
    assert text.p_text(0.00001) == "p < 0.001"
    assert text.p_number(0.0321) == "0.032"
    assert text.p_number(0.5) == "0.50"
    assert text.number(-1.5, 2) == "−1.50"


@pytest.mark.parametrize(
    ("count", "expected"),
    [(None, "–"), (950, "950"), (1200, "1.2K"), (614_400, "614.4K"), (999_999, "1M"),
     (7.08e9, "7.08B")],
)  # fmt: skip
def test_counts(count: float | None, expected: str) -> None:
    assert text.count_text(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(3.14, "3.1 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"),
     (7500, "2 h 05 min"), (4 * 86400 + 7200, "4 d 2 h")],
)  # fmt: skip
def test_durations(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_latex_escapes_every_special() -> None:
    assert text.latex("a_b & 5% #1 $x$ {y} ~^\\") == (
        r"a\_b \& 5\% \#1 \$x\$ \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert text.latex("Δ≤π") == r"$\Delta$ $\leq$ $\pi$".replace(" ", " ")
    assert text.latex("two\nlines") == "two lines"


def test_markdown_escapes_markup() -> None:
    assert text.markdown("a|b *c* <d> `e` & $f$\nnext") == (
        r"a\|b \*c\* &lt;d&gt; \`e\` &amp; \$f\$ next"
    )


def test_smoothing_keeps_ends_mean_and_size() -> None:
    curve = [(i, math.sin(i)) for i in range(1000)]
    smoothed = smooth(curve)
    assert len(smoothed) <= 160
    assert smoothed[-1] == curve[-1]
    assert max(abs(loss) for _, loss in smoothed[5:-5]) < 0.3
    assert smooth([]) == []
    assert smooth([(1, 2.0)]) == [(1, 2.0)]


def test_mean_curve_uses_points_that_all_seeds_have() -> None:
    assert mean_curve([[(1, 2.0), (2, 1.0), (3, 0.0)], [(1, 4.0), (3, 1.0)]]) == [
        (1, 3.0),
        (3, 0.5),
    ]
    assert mean_curve([]) == []


def test_upper_limit_leaves_out_the_steep_start() -> None:
    assert upper_limit([(1, 9.0), (50, 3.0), (100, 2.0)]) == 3.0

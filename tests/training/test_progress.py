import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from ssmlab.training.events import Event
from ssmlab.training.progress import StudyProgress, TrialProgress


@dataclass(frozen=True)
class StudyEvent:
    kind: str
    trial: str | None = None
    index: int = 0
    total: int = 0
    event: Event | None = None
    message: str | None = None


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=140, color_system=None)


def trial_events(total=100):
    yield Event("resume", 10, total, message="goes on from step 10")
    for step in range(20, total + 1, 20):
        yield Event("train", step, total, loss=2.5, tokens_per_second=12345.0)
    yield Event("val", total, total, loss=2.0)
    yield Event("done", total, total, loss=2.0, tokens_per_second=12000.0)


def study_events():
    yield StudyEvent("preflight", message="checking 2 trials")
    for index, name in enumerate(("Δ [all]-ab12", "none-cd34"), start=1):
        yield StudyEvent("trial-start", name, index, 2)
        for event in trial_events():
            yield StudyEvent("trial-event", name, index, 2, event)
        yield StudyEvent("trial-done", name, index, 2)
    yield StudyEvent("done", total=2, message="all trials done")


def show(display, events):
    with display:
        for event in events:
            display(event)


def test_trial_bar_shows_steps_loss_speed_and_time_left():
    out = console(True)
    show(TrialProgress("mamba", console=out), trial_events())
    text = out.file.getvalue()
    for part in ("mamba", "100/100", "loss 2.500", "val 2.000", "12.3k tok/s", "left"):
        assert part in text


def test_study_bars_name_the_trial_even_with_markup_in_it():
    out = console(True)
    show(StudyProgress(console=out), study_events())
    text = out.file.getvalue()
    for part in ("trial 1/2 · Δ [all]-ab12", "trial 2/2 · none-cd34", "100/100", "2/2"):
        assert part in text


def test_plain_output_is_a_few_lines():
    out = console(False)
    show(StudyProgress(console=out), study_events())
    lines = out.file.getvalue().splitlines()
    assert lines == [
        "checking 2 trials",
        "trial 1/2 · Δ [all]-ab12",
        "  Δ [all]-ab12: goes on from step 10",
        "trial 1/2 · Δ [all]-ab12: validation perplexity 7.389 after 100 steps, 12.0k tokens/s",
        "trial 2/2 · none-cd34",
        "  none-cd34: goes on from step 10",
        "trial 2/2 · none-cd34: validation perplexity 7.389 after 100 steps, 12.0k tokens/s",
        "all trials done",
    ]


def test_trials_side_by_side_have_a_bar_each():
    out = console(True)
    events = [StudyEvent("trial-start", name, i, 2) for i, name in enumerate("ab", start=1)]
    events += [
        StudyEvent("trial-event", name, i, 2, Event("train", 7 * i, 50, 3.0, 10.0))
        for i, name in enumerate("ab", start=1)
    ]
    show(StudyProgress(console=out), events)
    assert "7/50" in out.file.getvalue()
    assert "14/50" in out.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_says_warnings_alone(terminal, capsys):
    out = console(terminal)
    events = [*study_events(), StudyEvent("warning", "a", 1, 2, message="damaged")]
    show(StudyProgress(quiet=True, console=out), events)
    assert out.file.getvalue() == "a: damaged\n"
    assert capsys.readouterr().out == ""


def test_nothing_goes_to_standard_output(capsys):
    show(StudyProgress(), study_events())
    show(TrialProgress(), trial_events())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "perplexity" in captured.err


def test_a_diverged_trial_says_why():
    out = console(False)
    show(
        TrialProgress("t", console=out),
        [Event("done", 5, 100, message="diverged: loss nan at step 5 of 100")],
    )
    assert "diverged: loss nan at step 5" in out.file.getvalue()

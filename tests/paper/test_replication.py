"""The queue of all studies: every trial of its parts is in it, and next to none twice."""

import functools

import pytest

from ssmlab.paper import get_study, study_names
from ssmlab.paper.replication import PARTS, REPLICATION

SCALES = ("quick", "mini", "small", "paper")


@functools.cache
def queued(scale: str) -> list:
    return [trial.config.effective() for trial in REPLICATION.trials(scale, 1)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_trial_of_a_part_is_in_the_queue(part, scale):
    assert all(trial.config.effective() in set(queued(scale)) for trial in part.trials(scale, 1))


def test_hardly_a_trial_is_there_twice():
    # Two rows that are one trial at one scale alone both stay.
    twice = [len(queued(scale)) - len(set(queued(scale))) for scale in SCALES]
    assert max(twice) <= 2, twice
    assert len(REPLICATION.rows()) < sum(len(part.rows()) for part in PARTS) - 20


def test_the_other_studies_are_those_with_seeds_of_their_own():
    left_out = set(study_names()) - {part.name for part in PARTS} - {"replication"}
    assert left_out == {"spread", "rates", "attention-rates", "kernel-rates", "lengths"}


def test_overrides_win_over_what_rows_have():
    trials = REPLICATION.trials("quick", 1, {"training.steps": 7})
    assert {trial.config.training.steps for trial in trials} == {7}
    assert get_study("replication") is REPLICATION

"""Training: one trial in one folder, started, stopped, resumed and finished."""

from ssmlab.training.config import TrainingConfig, TrialConfig
from ssmlab.training.events import Event
from ssmlab.training.result import TrialResult
from ssmlab.training.run import run_trial

__all__ = ["Event", "TrainingConfig", "TrialConfig", "TrialResult", "run_trial"]

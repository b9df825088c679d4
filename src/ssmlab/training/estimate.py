"""What a trial will need on disk, for checks before anything runs."""

from ssmlab.training.checkpoint import KEPT

# Weights and AdamW's two moments, all fp32.
_BYTES_PER_PARAMETER = 3 * 4
# Configs, metrics and file headers, with room to spare.
_SMALL_FILES = 4_000_000


def checkpoint_bytes(n_params: int) -> int:
    """Size of one checkpoint of a model with ``n_params`` parameters."""
    return _BYTES_PER_PARAMETER * n_params + 100_000


def trial_disk_bytes(n_params: int, save_model: bool = False) -> int:
    """The most a running trial holds: the kept checkpoints and the one being written."""
    weights = 4 * n_params if save_model else 0
    return (KEPT + 1) * checkpoint_bytes(n_params) + weights + _SMALL_FILES


def finished_disk_bytes(n_params: int, save_model: bool = False) -> int:
    """What stays of a finished trial, whose checkpoints are gone."""
    return (4 * n_params if save_model else 0) + _SMALL_FILES

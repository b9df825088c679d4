"""What a training run is made of: one model, one data source, one recipe, one seed."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from ssmlab.core.errors import ConfigError
from ssmlab.data.config import TextDataConfig
from ssmlab.models.config import LanguageModelConfig


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe of one run: AdamW, linear warmup, cosine decay (the paper's appendix E.2.1).

    Attributes:
        steps: optimiser steps.
        batch_size: sequences per optimiser step.
        seq_len: tokens per sequence.
        grad_accumulation: micro-batches that ``batch_size`` is cut into; changes memory and
            time, not the result.
        lr: peak learning rate.
        lr_min: learning rate at the last step.
        warmup_fraction: share of the steps over which the rate rises linearly to ``lr``.
        betas: AdamW's decay rates.
        weight_decay: AdamW's decay, on matrices only.
        grad_clip: largest norm of the whole gradient; 0 clips nothing.
        precision: ``auto`` is bf16 autocast on CUDA and fp32 elsewhere. Parameters are fp32 always.
        eval_every: steps between evaluations; 0 evaluates after the last step only.
        eval_tokens: held-out tokens per evaluation, at most.
        log_every: steps between lines of ``metrics.jsonl``.
        checkpoint_every_seconds: training seconds between checkpoints; 0 for none by time.
        checkpoint_every_steps: steps between checkpoints; 0 for none by steps.
        device: ``auto`` (CUDA if there is one, else CPU) or a torch device such as ``cuda:1``.
        cuda_graph: whether a step is replayed as a CUDA graph, on CUDA devices. The numbers are the
            same; what it saves is the time in which Python launches kernels, which is most of it for
            a small model. Where a step cannot be recorded, a warning says so and it runs as without.
        compile: whether ``torch.compile`` is applied to the model.
        threads: CPU threads of torch; 0 leaves torch's own choice.
        save_model: whether the final weights are kept as ``model.safetensors``.

    Raises:
        ConfigError: a value out of range.
    """

    steps: int = 200
    batch_size: int = 16
    seq_len: int = 128
    grad_accumulation: int = 1
    lr: float = 3e-3
    lr_min: float = 1e-5
    warmup_fraction: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    eval_every: int = 0
    eval_tokens: int = 65536
    log_every: int = 10
    checkpoint_every_seconds: float = 30.0
    checkpoint_every_steps: int = 0
    device: str = "auto"
    cuda_graph: bool = True
    compile: bool = False
    threads: int = 0
    save_model: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "seq_len", "grad_accumulation", "eval_tokens"):
            _at_least(name, getattr(self, name), 1)
        _at_least("log_every", self.log_every, 1)
        for name in ("eval_every", "checkpoint_every_steps", "threads"):
            _at_least(name, getattr(self, name), 0)
        for name in ("lr", "lr_min", "weight_decay", "grad_clip", "checkpoint_every_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"training.{name}: expected a finite number >= 0, got {value}")
        if self.lr_min > self.lr:
            raise ConfigError(
                f"training.lr_min ({self.lr_min}) is above the peak training.lr ({self.lr}); "
                "lower lr_min"
            )
        if not 0 <= self.warmup_fraction <= 1:
            raise ConfigError(
                f"training.warmup_fraction: expected 0 to 1, got {self.warmup_fraction}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"training.betas: expected two numbers in [0, 1), got {self.betas}")
        if self.batch_size % self.grad_accumulation:
            raise ConfigError(
                f"training.batch_size ({self.batch_size}) cannot be cut into "
                f"training.grad_accumulation ({self.grad_accumulation}) equal micro-batches; "
                "choose a divisor"
            )


@dataclass(frozen=True)
class TrialConfig:
    """All that decides one trial's result: model, data, recipe and seed.

    ``seed`` draws the initial weights and the order of the training windows. ``init_from`` is the
    checkpoint that training starts from, in any format that ssmlab reads, instead of weights drawn;
    ``model`` must then be the checkpoint's own config.
    """

    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    data: TextDataConfig = field(default_factory=TextDataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0
    init_from: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed: expected 0 to 2**63 - 1, got {self.seed}")
        limit, length = self.model.max_length, self.training.seq_len
        if limit is not None and length > limit[0]:
            raise ConfigError(
                f"training.seq_len={length} is longer than the model takes, {limit[1]}={limit[0]}; "
                f"set {limit[1]} to {length}, or a shorter seq_len"
            )

    def effective(self) -> "TrialConfig":
        """The same trial, with everything that has no effect on its result at one value.

        Trials that differ here may differ in their results; trials that are equal here, on the same
        text and kind of device, do not. What only changes the order of additions, such as
        ``grad_accumulation`` and ``recompute``, counts as having an effect.
        """
        return replace(self, model=self.model.effective(), data=replace(self.data, cache_dir=None))


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"training.{name}: expected at least {least}, got {value}")

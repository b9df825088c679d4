"""Run one trial in one folder: start, go on, stop cleanly, finish.

The folder tells all: ``config.json``, ``environment.json``, ``metrics.jsonl``, checkpoints while
it runs, ``result.json`` and at last ``DONE``. Any process that sees it can go on from there.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssmlab.core.config import to_dict
from ssmlab.core.errors import CheckpointError, ConfigError, Interrupted
from ssmlab.core.files import write_atomic, write_json, write_text
from ssmlab.data.text import TextData
from ssmlab.training import checkpoint as checkpoints
from ssmlab.training.config import TrialConfig
from ssmlab.training.device import peak_memory_bytes, reset_peak_memory, select_device
from ssmlab.training.environment import describe_environment
from ssmlab.training.events import Event, EventKind, OnEvent
from ssmlab.training.folder import CONFIG_FILE, check_same_config, remove_leftovers
from ssmlab.training.metrics import MetricsLog
from ssmlab.training.result import TrialResult, is_done, read_result, write_result
from ssmlab.training.schedule import learning_rate
from ssmlab.training.speed import Speedometer
from ssmlab.training.trainer import Trainer

ENVIRONMENT_FILE = "environment.json"
MODEL_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
# A checkpoint by time waits until the last one took no more than this share of the time.
_CHECKPOINT_SHARE = 0.05


def run_trial(
    config: TrialConfig,
    folder: Path,
    *,
    on_event: OnEvent | None = None,
    should_stop: Callable[[], bool] | None = None,
    data: TextData | None = None,
) -> TrialResult:
    """Train and evaluate one model, going on from whatever ``folder`` already holds.

    A finished folder returns its result at once. A folder with a checkpoint goes on from it; on
    the CPU the result is bit for bit that of an uninterrupted run. A loss or gradient that is not
    finite ends the trial with status ``diverged``; it does not raise.

    Args:
        config: the trial; ``model.vocab_size`` 0 is filled in from the data.
        folder: the trial's own folder, made if it is not there. One process at a time.
        on_event: told of every logged step, evaluation, checkpoint, resume, warning and the end.
        should_stop: asked after every step; once true, the trial saves itself and stops.
        data: the prepared text, if there is one at hand; else it is prepared from ``config.data``.

    Raises:
        Interrupted: ``should_stop`` said so; the same call goes on from there.
        ConfigError: the model, device or vocabulary cannot be.
        CheckpointError: ``folder`` belongs to another config, or to data that has changed.
        DataError: the text is missing, damaged or too small.
        StorageError: the folder cannot be written; what was whole before is whole still.
    """
    folder = Path(folder)
    check_same_config(folder, config)
    if is_done(folder):
        checkpoints.remove_checkpoints(folder)  # a kill right after DONE may have left some
        return read_result(folder)
    device = select_device(config.training.device)
    if data is None:
        from ssmlab.data.text import prepare_text

        data = prepare_text(config.data)
    config = resolve(config, data.vocab_size)
    check_same_config(folder, config)
    with _threads(config.training.threads):
        run = _Run(config, folder, data, device, on_event or (lambda event: None))
        return run.train(should_stop or (lambda: False))


def resolve(config: TrialConfig, data_vocab_size: int) -> TrialConfig:
    """``config`` with ``model.vocab_size`` filled in from the data if it is 0.

    Raises:
        ConfigError: it is set and smaller than the data's vocabulary.
    """
    given = config.model.vocab_size
    if given == 0:
        return dataclasses.replace(
            config, model=dataclasses.replace(config.model, vocab_size=data_vocab_size)
        )
    if given < data_vocab_size:
        raise ConfigError(
            f"model.vocab_size is {given}, but the data's tokenizer has {data_vocab_size} tokens; "
            f"set it to 0 (filled in from the data) or to at least {data_vocab_size}"
        )
    return config


@dataclass
class _State:
    """What a resumed run must know besides tensors; kept in the checkpoint as JSON."""

    data_key: str
    device: str
    step: int = 0
    seconds: float = 0.0
    timed_tokens: int = 0
    timed_seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    train_loss: float | None = None


class _Run:
    """A trial between start and end."""

    def __init__(
        self,
        config: TrialConfig,
        folder: Path,
        data: TextData,
        device: torch.device,
        on_event: OnEvent,
    ) -> None:
        self.config, self.training = config, config.training
        self.folder, self.data, self.device, self.on_event = folder, data, device, on_event
        self.state = _State(data_key=data.key, device=device.type)
        reset_peak_memory(device)
        self.trainer = Trainer(config, data, device)
        remove_leftovers(folder)
        resumed = self._resume()
        write_json(folder / CONFIG_FILE, to_dict(config))
        if not resumed:
            environment = describe_environment(device)
            environment["data"] = {"key": data.key, "description": data.description}
            write_json(folder / ENVIRONMENT_FILE, environment)
        self.metrics = MetricsLog(folder, self.state.step, self.training.steps)
        self.speed = Speedometer(self.state.timed_tokens, self.state.timed_seconds)
        self.started = self.last_saved = time.perf_counter()
        self.earlier_seconds = self.state.seconds
        self.save_seconds = 0.0
        # Losses and norms not yet read: on a GPU, reading them every step would make it wait.
        self.unread: list[tuple[Tensor, Tensor]] = []
        self.grad_norm = 0.0
        self.told_of_graph = False

    def train(self, should_stop: Callable[[], bool]) -> TrialResult:
        state, training = self.state, self.training
        waits = self.device.type == "cpu"
        first = True
        self.speed.restart()
        while state.step < training.steps:
            self.unread.append(self.trainer.step(state.step))
            self._tell_of_graph()
            state.step += 1
            stop = should_stop()
            last = state.step == training.steps
            log = last or state.step % training.log_every == 0
            evaluate = not last and _every(training.eval_every, state.step)
            save = stop or (not last and self._checkpoint_due())
            if waits or first or log or evaluate or save:
                reason = self._read_losses()
                if reason:
                    return self._finish(reason, None)
            first = False
            if log:
                self._log()
            if evaluate:
                self._evaluate()
            if save:
                self._save()
            if evaluate or save:
                self.speed.restart()
            if stop:
                raise Interrupted(
                    f"stopped after step {state.step} of {training.steps}, saved in {self.folder}; "
                    "run the same again to go on"
                )
        val_loss = self._evaluate()
        if not math.isfinite(val_loss):
            return self._finish(f"validation loss {val_loss} after step {state.step}", None)
        return self._finish(None, val_loss)

    def _tell_of_graph(self) -> None:
        graph = self.trainer.graph
        if graph is not None and graph.failure is not None and not self.told_of_graph:
            self.told_of_graph = True
            self._tell(
                "warning",
                message=f"steps are not replayed as a CUDA graph ({graph.failure}): the same "
                "numbers, slower; --set training.cuda_graph=false does not try",
            )

    def _read_losses(self) -> str | None:
        """Read the losses of the steps since the last call; why the trial diverged, if it did."""
        values = torch.stack([torch.stack(pair) for pair in self.unread]).cpu().tolist()
        self.speed.lap(len(values) * self._step_tokens)
        first = self.state.step - len(values) + 1
        self.unread.clear()
        for step, (loss, norm) in enumerate(values, start=first):
            if not math.isfinite(loss) or not math.isfinite(norm):
                self.state.step = step
                what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
                return f"{what} at step {step} of {self.training.steps}"
            self.state.loss_sum += loss
            self.state.loss_count += 1
            self.grad_norm = norm
        return None

    def _log(self) -> None:
        state = self.state
        loss = state.loss_sum / state.loss_count
        state.loss_sum, state.loss_count, state.train_loss = 0.0, 0, loss
        speed = self.speed.window()
        self.metrics.append(
            step=state.step,
            tokens=state.step * self._step_tokens,
            split="train",
            loss=loss,
            lr=learning_rate(self.training, state.step - 1),
            grad_norm=self.grad_norm,
            tokens_per_second=speed,
            seconds=self._seconds(),
        )
        self._tell("train", loss=loss, tokens_per_second=speed)

    def _evaluate(self) -> float:
        loss = self.trainer.evaluate()
        finite = math.isfinite(loss) and math.isfinite(_perplexity(loss))
        self.metrics.append(
            step=self.state.step,
            tokens=self.state.step * self._step_tokens,
            split="val",
            loss=loss if finite else None,
            ppl=_perplexity(loss) if finite else None,
            seconds=self._seconds(),
        )
        self._tell("val", loss=loss if finite else None)
        return loss if finite else math.nan

    def _save(self) -> None:
        before = time.perf_counter()
        self.state.seconds = self._seconds()
        self.state.timed_tokens, self.state.timed_seconds = self.speed.tokens, self.speed.seconds
        checkpoints.save_checkpoint(
            self.folder,
            checkpoints.Checkpoint(
                self.state.step, self.trainer.tensors(), dataclasses.asdict(self.state)
            ),
        )
        self.last_saved = time.perf_counter()
        self.save_seconds = self.last_saved - before
        self._tell("checkpoint")

    def _resume(self) -> bool:
        found = checkpoints.load_latest(
            self.folder, lambda message: self._tell("warning", message=message)
        )
        if found is None:
            return False
        if found.state.get("data_key") != self.data.key:
            raise CheckpointError(
                f"{self.folder} was started on other data than there is now (the files of "
                "data.paths have changed); bring them back, or use another folder"
            )
        try:
            self.state = _State(**found.state, step=found.step)
        except TypeError as error:
            raise CheckpointError(
                f"the checkpoint in {self.folder} was written by another version of ssmlab; go on "
                "with that version, or use another folder"
            ) from error
        self.trainer.load(found.tensors)
        if self.state.device != self.device.type:
            self._tell(
                "warning",
                message=f"was on {self.state.device} and goes on on {self.device.type}: the "
                "result will not be bit for bit that of either",
            )
            self.state.device = self.device.type
        self._tell("resume", message=f"goes on from step {found.step} of {self.training.steps}")
        return True

    def _finish(self, reason: str | None, val_loss: float | None) -> TrialResult:
        state, nats_per_bit = self.state, math.log(2)
        result = TrialResult(
            status="diverged" if reason else "ok",
            reason=reason,
            val_loss=val_loss,
            val_ppl=None if val_loss is None else _perplexity(val_loss),
            val_bits_per_byte=None
            if val_loss is None
            else val_loss / nats_per_bit / self.data.bytes_per_token,
            train_loss=state.train_loss,
            steps=state.step,
            tokens=state.step * self._step_tokens,
            seconds=self._seconds(),
            tokens_per_second=self.speed.total(),
            n_params=self.trainer.n_params,
            seed=self.config.seed,
            device=str(self.device),
            peak_memory_bytes=peak_memory_bytes(self.device),
        )
        if self.training.save_model and not reason:
            weights = {n: t.cpu().contiguous() for n, t in self.trainer.weights().items()}
            write_atomic(
                self.folder / MODEL_FILE,
                lambda temporary: checkpoints.write_tensors(temporary, weights, {"format": "pt"}),
            )
            if self.data.tokenizer_path is not None:
                # Beside the weights, so that the folder is a checkpoint that text goes into.
                text = self.data.tokenizer_path.read_text(encoding="utf-8")
                write_text(self.folder / TOKENIZER_FILE, text)
        write_result(self.folder, result)
        checkpoints.remove_checkpoints(self.folder)
        self._tell(
            "done",
            loss=val_loss,
            tokens_per_second=result.tokens_per_second,
            message=f"diverged: {reason}" if reason else None,
        )
        return result

    @property
    def _step_tokens(self) -> int:
        return self.training.batch_size * self.training.seq_len

    def _seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started

    def _checkpoint_due(self) -> bool:
        by_time = self.training.checkpoint_every_seconds
        wait = max(by_time, self.save_seconds / _CHECKPOINT_SHARE)
        return _every(self.training.checkpoint_every_steps, self.state.step) or (
            by_time > 0 and time.perf_counter() - self.last_saved >= wait
        )

    def _tell(self, kind: EventKind, **values: Any) -> None:
        self.on_event(Event(kind, self.state.step, self.training.steps, **values))


def _every(period: int, step: int) -> bool:
    return period > 0 and step % period == 0


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count > 0:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

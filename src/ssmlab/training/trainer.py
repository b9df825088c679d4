"""One model being trained: a step, an evaluation, and its tensors for a checkpoint.

Shapes: B sequences, L tokens.
"""

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ssmlab.checkpoints.load import from_pretrained
from ssmlab.core.errors import CheckpointError, DataError
from ssmlab.data.text import TextData
from ssmlab.models.language_model import LanguageModel
from ssmlab.training.config import TrialConfig
from ssmlab.training.device import uses_bf16
from ssmlab.training.graph import GraphedStep
from ssmlab.training.optim import build_optimizer, set_learning_rate
from ssmlab.training.schedule import learning_rate

_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


class Trainer:
    """Model, optimiser and data of a trial, with no notion of folders or time.

    Everything random follows from ``config.seed``: it seeds torch before the weights are drawn
    (on the CPU, so that they are the same on every device) and names the training windows.

    Attributes:
        graph: what replays the steps, on CUDA devices.
    """

    def __init__(self, config: TrialConfig, data: TextData, device: torch.device) -> None:
        self.config = config
        self.data = data
        self.device = device
        torch.manual_seed(config.seed)
        self.model = _start(config).to(device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.model, config.training)
        self.bf16 = uses_bf16(config.training, device)
        if config.training.compile:
            self.model.compile()  # in place: the names of the parameters stay
        graphed = device.type == "cuda" and config.training.cuda_graph
        self.graph = GraphedStep(device) if graphed else None

    @property
    def n_params(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(p.numel() for p in self.model.parameters())

    def step(self, step: int) -> tuple[Tensor, Tensor]:
        """Do optimiser step ``step`` (0 the first).

        Returns:
            The mean loss in nats per token and the norm of the gradient before clipping, both
            0-d on the device: reading them is what waits for the device.
        """
        training = self.config.training
        inputs, targets = self.data.batch(
            split="train",
            step=step,
            batch_size=training.batch_size,
            seq_len=training.seq_len,
            seed=self.config.seed,
        )
        self.model.train()
        set_learning_rate(self.optimizer, learning_rate(training, step))
        if self.graph is not None:
            loss, norm = self.graph(self._update, inputs.pin_memory(), targets.pin_memory())
            return loss, norm
        return self._update(self._to_device(inputs), self._to_device(targets))

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean loss in nats per token over the held-out windows, each token with equal weight.

        Raises:
            DataError: the held-out split has no whole window.
        """
        training = self.config.training
        self.model.eval()
        loss_sum, count = 0.0, 0
        for inputs, targets in self.data.val_batches(
            batch_size=training.batch_size // training.grad_accumulation,
            seq_len=training.seq_len,
            max_tokens=training.eval_tokens,
        ):
            with self._autocast():
                loss = self.model.loss(self._to_device(inputs), self._to_device(targets))
            tokens = int((targets != -100).sum())
            loss_sum += loss.item() * tokens
            count += tokens
        if not count:
            raise DataError(
                f"the held-out text has no window of training.seq_len = {training.seq_len} tokens "
                f"within training.eval_tokens = {training.eval_tokens}; use more text, a larger "
                "data.val_fraction or a smaller seq_len"
            )
        return loss_sum / count

    def weights(self) -> dict[str, Tensor]:
        """Parameters (tied ones once) and persistent buffers by name."""
        named = dict(self.model.named_parameters())
        kept = self.model.state_dict(keep_vars=True)
        buffers = {name: b for name, b in self.model.named_buffers() if name in kept}
        return {name: tensor.detach() for name, tensor in {**named, **buffers}.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold: weights, optimiser state and random state."""
        tensors = {f"model.{name}": tensor for name, tensor in self.weights().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors of a checkpoint.

        Raises:
            CheckpointError: they are another model's.
        """
        weights = self.weights()
        for name, weight in weights.items():
            stored = tensors.get(f"model.{name}")
            if stored is None or stored.shape != weight.shape:
                given = "nothing" if stored is None else f"shape {tuple(stored.shape)}"
                raise CheckpointError(
                    f"the checkpoint does not fit the model: {name} needs shape "
                    f"{tuple(weight.shape)}, the checkpoint has {given}; use another folder"
                )
            weight.copy_(stored)
        self._load_optimizer(tensors)
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)

    def _load_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        names = {id(p): name for name, p in self.model.named_parameters()}
        ordered = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for index, parameter in enumerate(ordered):
            keys = {k: f"optimizer.{k}.{names[id(parameter)]}" for k in _ADAM_STATE}
            if all(name in tensors for name in keys.values()):  # none before the first step
                state[index] = {key: tensors[name] for key, name in keys.items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if self.graph is not None:
            self.graph.forget()  # the moments have moved

    def _update(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, gradients, clipping and the optimiser: kernels alone, nothing waits for them."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        pieces = self.config.training.grad_accumulation
        for part, wanted in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
            with self._autocast():
                loss = self.model.loss(part, wanted) / pieces
            loss.backward()
            total += loss.detach()
        norm = self._clip(self.config.training.grad_clip)
        self.optimizer.step()
        return total, norm

    def _clip(self, largest: float) -> Tensor:
        if largest > 0:
            return torch.nn.utils.clip_grad_norm_(self.parameters, largest)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _autocast(self) -> AbstractContextManager[object]:
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            # Pinned memory lets the copy overlap with the step before.
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def _start(config: TrialConfig) -> LanguageModel:
    """The model before the first step.

    Raises:
        CheckpointError: the checkpoint to start from cannot be read, or is of another model.
    """
    if config.init_from is None:
        return LanguageModel(config.model)
    model = from_pretrained(config.init_from)
    if model.config != config.model:
        raise CheckpointError(
            f"the model of {config.init_from} is not that of the config; take over the checkpoint's "
            "own model keys (the command line does so with --init-from)"
        )
    return model.train()

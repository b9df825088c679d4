"""Training steps to measure: a model, AdamW, random tokens; their time and their memory.

Shapes: B sequences, L tokens each.
"""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmlab.core.errors import ConfigError
from ssmlab.models.config import LanguageModelConfig
from ssmlab.models.language_model import LanguageModel
from ssmlab.training.config import TrainingConfig
from ssmlab.training.device import peak_memory_bytes, reset_peak_memory, select_device, uses_bf16
from ssmlab.training.graph import ORDINARY_CALLS, GraphedStep
from ssmlab.training.optim import build_optimizer

WARMUP = 3  # steps before the clock: kernels are compiled, the allocator finds its sizes


def bench_device(name: str) -> torch.device:
    """The device called ``name``, "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: unknown, or one that this machine has not.
    """
    device = select_device(name)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: this benchmark runs on cpu and cuda")
    return device


@dataclass
class Step:
    """One training step of a model on random tokens, as the training loop does it."""

    model: LanguageModel
    device: torch.device
    batch_size: int
    seq_len: int
    bf16: bool
    optimizer: torch.optim.Optimizer
    loss: Callable[[Tensor, Tensor], Tensor]
    graph: GraphedStep | None = None

    @classmethod
    def build(
        cls,
        config: LanguageModelConfig,
        device: torch.device,
        batch_size: int,
        seq_len: int,
        precision: str = "auto",
        compiled: bool = False,
    ) -> "Step":
        """Make the model and its optimiser; "auto" precision is bf16 autocast on CUDA."""
        torch.manual_seed(0)
        training = TrainingConfig(precision=precision)  # type: ignore[arg-type]
        with device:
            model = LanguageModel(config)
        loss = torch.compile(model.loss) if compiled else model.loss
        return cls(
            *(model, device, batch_size, seq_len, uses_bf16(training, device)),
            *(build_optimizer(model, training), loss),
        )

    def tokens(self) -> Tensor:
        """Random input ids (B, L + 1)."""
        size = (self.batch_size, self.seq_len + 1)
        return torch.randint(self.model.config.vocab_size, size, device=self.device)

    def forward(self, ids: Tensor | None = None) -> Tensor:
        """The loss of ``ids``, or of random tokens."""
        ids = self.tokens() if ids is None else ids
        context: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if self.bf16:
            context = torch.autocast(self.device.type, dtype=torch.bfloat16)
        with context:
            return self.loss(ids[:, :-1], ids[:, 1:])

    def run(self) -> None:
        """Forward, backward, clipping and the optimiser."""
        if self.graph is None:
            self._update(self.tokens())
        else:
            self.graph(self._update, self.tokens())

    def record(self) -> None:
        """Run as a CUDA graph from now on, as training does on a GPU.

        Raises:
            ConfigError: the step cannot be recorded.
        """
        self.graph = GraphedStep(self.device)
        for _ in range(ORDINARY_CALLS + 1):
            self.run()
        if self.graph.failure is not None:
            raise ConfigError(
                f"the step cannot be recorded as a CUDA graph ({self.graph.failure}); leave out "
                "--cuda-graph"
            )

    def _update(self, ids: Tensor) -> tuple[Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.forward(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return (loss.detach(),)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def time_steps(step: Step, repeats: int) -> tuple[float, float]:
    """Median seconds a step, and the distance of the slowest from the fastest over the median."""
    for _ in range(WARMUP):
        step.run()
    step.synchronize()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step.run()
        step.synchronize()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return median, (max(seconds) - min(seconds)) / median


def peak_bytes(step: Step, steps: int = 2) -> int | None:
    """Most bytes that torch holds during a step, its optimiser's moments there already.

    None on the CPU, where torch does not count.
    """
    if step.device.type != "cuda":
        return None
    step.run()
    reset_peak_memory(step.device)
    for _ in range(steps):
        step.run()
    step.synchronize()
    return peak_memory_bytes(step.device)


def kept_bytes(step: Step) -> int:
    """Bytes that autograd keeps between a forward pass and its backward pass, parameters apart.

    Counted by the storages that it saves, each once, so that it is the same on any device.
    """
    parameters = {p.untyped_storage().data_ptr() for p in step.model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        # Another tensor of the same storage: an output that is its own saved value holds itself.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.forward()
    kept = sum(storages.values())
    del loss
    return kept


def release(device: torch.device) -> None:
    """Free what was deleted (optimisers refer to themselves) and cached, for a fresh start."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()

"""A step that is replayed as a CUDA graph.

A step of a small model is a thousand short kernels, which Python takes longer to launch than the GPU
to run.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ssmlab.ops._cuda.recording import record

ORDINARY_CALLS = 3
"""Calls before the recording: kernels are compiled, libraries choose theirs, memory finds its
sizes."""


class GraphedStep:
    """Calls a function of tensors on the GPU as it is a few times, then records and replays it.

    The function must do the same kernels in every call, and read and write memory that stays where it
    is (parameters, the optimiser's moments) or that it makes itself. Where it cannot be recorded it
    goes on being called.

    Arguments:
        device: a CUDA device.

    Attributes:
        failure: why the function could not be recorded, if it could not.
    """

    def __init__(self, device: torch.device) -> None:
        self.failure: str | None = None
        self._device = device
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()

    @property
    def recorded(self) -> bool:
        """Whether calls are replayed."""
        return self._graph is not None

    def __call__(
        self, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """The function's outputs for ``inputs``.

        Args:
            function: takes tensors on the device and gives such; the same one in every call. (It is
                not kept: most are methods of the object that this one belongs to.)
            inputs: on the device or in the CPU's (pinned) memory, always of the same shapes and
                dtypes.
        """
        if self._graph is None and self._calls >= ORDINARY_CALLS and self.failure is None:
            self._record(function, inputs)
        self._calls += 1
        if self._graph is None:
            return function(*(self._there(tensor) for tensor in inputs))
        for buffer, tensor in zip(self._inputs, inputs, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        self._graph.replay()
        # The next replay writes over what this one gave.
        return tuple(output.clone() for output in self._outputs)

    def forget(self) -> None:
        """Begin anew: memory that the recorded step uses is no longer the right one."""
        self._graph, self._inputs, self._outputs, self._calls = None, (), (), 0

    def _record(
        self, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]
    ) -> None:
        """Record the function; nothing is computed."""
        self._inputs = tuple(self._there(tensor).clone() for tensor in inputs)
        try:
            self._graph, self._outputs = record(lambda: function(*self._inputs), self._device)
        except RuntimeError as error:
            self.forget()
            self.failure = str(error).partition("\n")[0]
            torch.cuda.empty_cache()

    def _there(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

"""Loading a kernel (from memory, the disk cache or the compiler) and launching it.

A kernel takes one argument, a struct of 8-byte fields (pointers, long long, double): it is packed
here from Python numbers, so that a launch costs one small copy however many fields there are.
"""

import ctypes
import functools
import struct
import threading
from collections.abc import Sequence
from typing import Any

import torch

from ssmlab.ops._cuda import cache, vendor
from ssmlab.ops._cuda.compile import compile_kernel, compiler_version
from ssmlab.ops._cuda.source import KernelSource

Argument = int | float | torch.Tensor | None
_lock = threading.Lock()
_launches = 0


def launch_count() -> int:
    """How many kernels this process has launched: for tests that a path was taken."""
    return _launches


class Kernel:
    """A loaded kernel. ``kernel(arguments, grid, block, device=..., shared=...)`` launches it."""

    def __init__(self, source: KernelSource, code: Any, handle: Any) -> None:
        self.source = source
        self._code = code  # keeps the module loaded
        self._handle = handle
        self._shared: dict[int, int] = {}

    def __call__(
        self,
        arguments: Sequence[Argument],
        grid: tuple[int, int, int],
        block: int,
        *,
        device: torch.device,
        shared: int = 0,
    ) -> None:
        """Launch on the device's current stream.

        Args:
            arguments: the fields of the kernel's struct in order: tensors (their data pointers),
                ints (64 bits), floats (doubles), None (a null pointer).
            grid: blocks along x, y and z; nothing is launched if one of them is 0.
            block: threads a block.
            shared: bytes of dynamic shared memory.

        Raises:
            RuntimeError: the driver refuses the launch.
        """
        global _launches
        if 0 in grid:
            return
        driver = vendor.driver()
        index = device.index if device.index is not None else torch.cuda.current_device()
        packed = _pack(arguments)
        field = ctypes.addressof(packed)
        pointers = (ctypes.c_void_p * 1)(field)
        with torch.cuda.device(index):
            self._prepare(driver, index, shared)
            stream = torch.cuda.current_stream(index).cuda_stream
            (error,) = driver.cuLaunchKernel(
                self._handle, *grid, block, 1, 1, shared, stream, ctypes.addressof(pointers), 0
            )
        _check(driver, error, f"launch of {self.source.name}, grid {grid}, block {block}")
        _launches += 1

    def _prepare(self, driver: Any, index: int, shared: int) -> None:
        # Threads that PyTorch starts (autograd's) may not have the device's context yet.
        error, context = driver.cuCtxGetCurrent()
        if int(error) or not int(context):
            vendor.core().Device(index).set_current()
        if shared > 48 * 1024 and self._shared.get(index, 0) < shared:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            error, device = driver.cuDeviceGet(index)
            _check(driver, error, f"device {index}")
            (error,) = driver.cuKernelSetAttribute(attribute, shared, self._handle, device)
            _check(driver, error, f"{shared} bytes of shared memory for {self.source.name}")
            self._shared[index] = shared


def _pack(arguments: Sequence[Argument]) -> Any:
    code, values = [], []
    for value in arguments:
        if isinstance(value, float):
            code.append("d")
            values.append(value)
            continue
        code.append("q")
        if value is None:
            values.append(0)
        elif isinstance(value, torch.Tensor):
            values.append(value.data_ptr())
        else:
            values.append(int(value))
    layout = "".join(code)
    packed = ctypes.create_string_buffer(8 * len(layout))
    struct.pack_into(layout, packed, 0, *values)
    return packed


def _check(driver: Any, error: Any, what: str) -> None:
    if int(error):
        _, name = driver.cuGetErrorString(error)
        text = name.decode() if isinstance(name, bytes) else str(error)
        raise RuntimeError(f"CUDA: {what}: {text}")


def load_kernel(source: KernelSource, device: torch.device) -> Kernel:
    """The kernel for ``device``'s architecture, compiled at most once a machine.

    Raises:
        RuntimeError: it does not compile or load.
    """
    return _load(source, architecture(*_capability(device.index or 0)))


def architecture(major: int, minor: int) -> str:
    """What to compile for, such as "sm_80" or "sm_90a": from 9.0 on, with that GPU's own features."""
    return f"sm_{major}{minor}" + ("a" if major >= 9 else "")


@functools.cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


@functools.lru_cache(maxsize=1024)
def _load(source: KernelSource, arch: str) -> Kernel:
    with _lock:
        key = cache.cache_key(source, arch, compiler_version())
        compiled = cache.read(key)
        if compiled is None:
            compiled = compile_kernel(source, arch)
            cache.write(key, compiled)
        code = vendor.core().ObjectCode.from_cubin(compiled.code)
        return Kernel(source, code, code.get_kernel(compiled.symbol).handle)

"""From a kernel's source to machine code with NVRTC, and what the assembler says of it."""

import io
import re
from dataclasses import dataclass
from typing import Any

from ssmlab.ops._cuda import vendor
from ssmlab.ops._cuda.source import KernelSource

# Our code does not rely on denormals: flushing them saves an instruction in each exponential.
OPTIONS: dict[str, Any] = {
    "std": "c++17",
    "ftz": True,
    "device_as_default_execution_space": True,  # for generic lambdas
    "ptxas_options": ["-v"],
}


@dataclass(frozen=True)
class Compiled:
    """Machine code of one kernel.

    Attributes:
        code: the cubin.
        symbol: the kernel's mangled name in it.
        log: what the compiler and the assembler printed.
    """

    code: bytes
    symbol: str
    log: str = ""


@dataclass(frozen=True)
class Resources:
    """What one kernel uses: registers a thread; spill, stack and static shared memory in bytes."""

    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int


def compiler_version() -> str:
    """NVRTC's version, such as "13.0".

    Raises:
        Exception: cuda-core or NVRTC is missing or broken; the type depends on what is wrong.
    """
    error, major, minor = vendor.nvrtc().nvrtcVersion()
    if int(error):
        raise RuntimeError(f"nvrtcVersion returned {error}")
    return f"{major}.{minor}"


def compile_kernel(source: KernelSource, arch: str) -> Compiled:
    """Compile for ``arch`` ("sm_90a"); needs NVRTC and no GPU.

    Raises:
        RuntimeError: the source does not compile, with the compiler's messages.
    """
    core = vendor.core()
    options = core.ProgramOptions(
        name=source.files[-1].name,
        arch=arch,
        max_register_count=source.max_registers,
        **OPTIONS,
    )
    log = io.StringIO()
    try:
        code = core.Program(source.text(), "c++", options).compile(
            "cubin", name_expressions=(source.name,), logs=log
        )
    except Exception as error:
        raise RuntimeError(
            f"the kernel {source.name} does not compile for {arch}: {error}\n{log.getvalue()}"
        ) from error
    symbol = code.symbol_mapping[source.name]
    return Compiled(
        bytes(code.code), symbol.decode() if isinstance(symbol, bytes) else symbol, log.getvalue()
    )


def read_resources(log: str) -> Resources:
    """What ``ptxas -v`` printed about a log's single kernel.

    Raises:
        ValueError: the log says nothing of it.
    """
    used = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", log)
    if used is None or spills is None:
        raise ValueError(f"no resource usage in the compiler's log: {log!r}")
    shared = re.search(r"(\d+) bytes smem", log)
    return Resources(
        registers=int(used[1]),
        spill_bytes=max(int(spills[2]), int(spills[3])),
        stack_bytes=int(spills[1]),
        shared_bytes=int(shared[1]) if shared else 0,
    )

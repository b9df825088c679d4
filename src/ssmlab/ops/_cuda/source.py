"""What a kernel is made of: source files, joined, and the template instance that is wanted."""

import functools
from dataclasses import dataclass
from pathlib import Path

COMMON = Path(__file__).parent / "kernels" / "common.cuh"  # types, loads, stores, fast maths
ROWS = COMMON.with_name("rows.cuh")  # neighbouring elements at once


@dataclass(frozen=True)
class KernelSource:
    """One kernel: its files in order and the name expression of a ``__global__`` function.

    Args:
        files: source files; they are joined in this order, so a file sees those before it.
        name: a C++ expression that names the kernel, ``forward<float, 16>`` for a template.
        max_registers: registers a thread at most, where ``__launch_bounds__`` does not say it.
        architectures: those that the check compiles it for, such as ("sm_90a",); empty: all.
    """

    files: tuple[Path, ...]
    name: str
    max_registers: int | None = None
    architectures: tuple[str, ...] = ()

    def text(self) -> str:
        """The joined source; line directives keep the compiler's messages about the files."""
        return _join(self.files)


@functools.lru_cache(maxsize=256)
def _join(files: tuple[Path, ...]) -> str:
    parts = [f'#line 1 "{path.name}"\n{path.read_text(encoding="utf-8")}' for path in files]
    return "\n".join(parts)

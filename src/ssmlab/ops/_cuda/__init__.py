"""CUDA C++ kernels compiled at run time: nothing to build at install, nothing but NVRTC needed.

An operator describes a kernel by a :class:`KernelSource` (its files and a template instance) and
gets a callable :class:`Kernel` from :func:`load_kernel`. Importing this package imports neither
cuda-core nor NVRTC; :func:`unavailable_reason` says whether kernels can run on a device.
"""

from ssmlab.ops._cuda.availability import unavailable_reason, warn_once
from ssmlab.ops._cuda.launch import Kernel, launch_count, load_kernel
from ssmlab.ops._cuda.source import COMMON, ROWS, KernelSource

__all__ = [
    "COMMON",
    "ROWS",
    "Kernel",
    "KernelSource",
    "launch_count",
    "load_kernel",
    "unavailable_reason",
    "warn_once",
]

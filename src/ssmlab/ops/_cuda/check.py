"""``python -m ssmlab.ops._cuda.check``: compile every kernel variant, no GPU needed.

Prints registers and spills of each variant for each architecture and exits with 1 if one does not
compile or spills more than it may. Every operator with kernels lists its variants in a module
``cuda.variants`` with a function ``variants() -> list[KernelSource]``.
"""

import argparse
import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Iterator

import ssmlab.ops
from ssmlab.ops._cuda.compile import Resources, compile_kernel, compiler_version, read_resources
from ssmlab.ops._cuda.source import KernelSource

MOST_SPILLS = 64  # bytes a thread
# As launch.architecture has them.
ARCHITECTURES = ("sm_80", "sm_90a", "sm_100a")


def all_variants() -> list[KernelSource]:
    """The variants of every operator that has a module ``cuda.variants``."""
    found: list[KernelSource] = []
    for name in _variant_modules():
        found += importlib.import_module(name).variants()
    return found


def _variant_modules() -> Iterator[str]:
    for package in pkgutil.iter_modules(ssmlab.ops.__path__, "ssmlab.ops."):
        name = f"{package.name}.cuda.variants"
        if package.ispkg and _exists(f"{package.name}.cuda") and _exists(name):
            yield name


def _exists(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def check(variants: list[tuple[str, KernelSource]], processes: int = 1) -> list[str]:
    """Compile each pair of architecture and kernel, print a line each, return what is wrong."""
    wrong: list[str] = []
    print(f"NVRTC {compiler_version()}, {len(variants)} kernels")
    print(f"{'arch':7} {'registers':>9} {'spills':>6} {'stack':>6} {'shared':>7}  kernel")
    with contextlib.ExitStack() as stack:
        results = map(_compile, variants)
        if processes > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes))
            results = pool.imap(_compile, variants, chunksize=4)
        for (arch, source), used in zip(variants, results, strict=True):
            if isinstance(used, str):
                wrong.append(f"{arch} {source.name}: {used}")
                print(f"{arch:7} {'failed':>9}{'':24}  {source.name}", flush=True)
                continue
            print(
                f"{arch:7} {used.registers:9} {used.spill_bytes:6} {used.stack_bytes:6} "
                f"{used.shared_bytes:7}  {source.name}",
                flush=True,
            )
            if used.spill_bytes > MOST_SPILLS:
                wrong.append(
                    f"{arch} {source.name}: {used.spill_bytes} bytes of spills a thread, "
                    f"expected at most {MOST_SPILLS}"
                )
    return wrong


def _compile(variant: tuple[str, KernelSource]) -> Resources | str:
    arch, source = variant
    try:
        return read_resources(compile_kernel(source, arch).log)
    except (RuntimeError, ValueError) as error:
        return str(error)


def main() -> int:
    """Run the check as the command line asks; the exit status."""
    parser = argparse.ArgumentParser(description="Compile every CUDA kernel variant.")
    parser.add_argument("--arch", nargs="*", default=ARCHITECTURES, help="such as sm_90a")
    parser.add_argument("--only", default="", help="variants whose name holds this text")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    chosen = [
        (arch, source)
        for arch in given.arch
        for source in all_variants()
        if given.only in source.name and arch in (source.architectures or (arch,))
    ]
    wrong = check(chosen, given.processes)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

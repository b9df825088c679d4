"""Where a run happened: versions, machine, revision. Written beside every result."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ssmlab import __version__

_PACKAGES = ("numpy", "numba", "safetensors", "tokenizers")


def describe_environment(device: torch.device | None = None) -> dict[str, Any]:
    """Plain data for ``environment.json``. Never fails: what cannot be found out is None."""
    return {
        "ssmlab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": None if device is None else str(device),
        "device_name": _device_name(device),
        "cuda": torch.version.cuda,
        "git_revision": git_revision(),
        "argv": list(sys.argv),
    }


def git_revision(folder: Path | None = None) -> str | None:
    """The commit of the repository around ``folder`` (default: the working directory), with
    ``-dirty`` after it if tracked files were changed; None outside a repository or without git."""
    revision = _git(["rev-parse", "HEAD"], folder)
    if not revision:
        return None
    changed = _git(["status", "--porcelain", "--untracked-files=no"], folder)
    return f"{revision}-dirty" if changed else revision


def _git(arguments: list[str], folder: Path | None) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or None


def _device_name(device: torch.device | None) -> str | None:
    if device is None:
        return None
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()

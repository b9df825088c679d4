"""``ssmlab doctor``: what this machine has, what works, and why the rest does not."""

import importlib.metadata
import os
import platform
from typing import Annotated, Any

import typer

from ssmlab.cli.output import print_json, print_table

PACKAGES = ("torch", "numpy", "numba", "tokenizers", "safetensors", "pyarrow", "matplotlib")


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print versions, devices, and which backends work here and why not."""
    report = examine()
    if json:
        print_json(report)
        return
    print_table("versions", ["package", "version"], list(report["versions"].items()))
    print_table(
        "devices",
        ["device", "what"],
        [[device["name"], device["what"]] for device in report["devices"]],
    )
    print_table(
        "selective scan backends",
        ["backend", "works", "why not"],
        [[name, why is None, why or ""] for name, why in report["backends"].items()],
    )


def examine() -> dict[str, Any]:
    """The report as plain data: versions, devices, and each backend with None or why it fails."""
    import torch

    from ssmlab import __version__
    from ssmlab.ops import available_backends

    versions = {"ssmlab": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = [
        {
            "name": "cpu",
            "what": f"{platform.machine()}, {cores} cores, {torch.get_num_threads()} threads",
        }
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        devices.append(
            {
                "name": f"cuda:{index}",
                "what": f"{properties.name}, {memory:.0f} GiB, "
                f"compute capability {properties.major}.{properties.minor}",
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "what": "Apple GPU"})
    return {"versions": versions, "devices": devices, "backends": available_backends()}

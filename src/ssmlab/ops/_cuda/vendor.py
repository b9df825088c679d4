"""NVIDIA's Python packages, imported when first needed: they are an extra (``ssmlab[gpu]``)."""

import importlib
from typing import Any


def core() -> Any:
    """The module ``cuda.core``."""
    return importlib.import_module("cuda.core")


def driver() -> Any:
    """The module ``cuda.bindings.driver``."""
    return importlib.import_module("cuda.bindings.driver")


def nvrtc() -> Any:
    """The module ``cuda.bindings.nvrtc``."""
    return importlib.import_module("cuda.bindings.nvrtc")

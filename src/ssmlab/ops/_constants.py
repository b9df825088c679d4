"""Functions whose result torch.compile takes as a constant."""

from collections.abc import Callable
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


def constant_when_compiled(function: _F) -> _F:
    """Let torch.compile call ``function`` while it traces, and take the result as a constant.

    What ``torch.compiler.assume_constant_result`` does, which loads the whole compiler to do it: a
    second of every start.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function

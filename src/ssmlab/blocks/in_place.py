"""A step of decoding whose new state takes the place of the old one."""

from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


def step_in_place(module: nn.Module, x: Tensor, state: Any, *rest: Tensor) -> Tensor:
    """``module.step(x, state, *rest)``, the new state written to the tensors of ``state``.

    A module that can write it there itself has ``step_``, with the same arguments; of others it is
    copied. Only for states whose tensors keep their shapes from step to step.
    """
    if hasattr(module, "step_"):
        return module.step_(x, state, *rest)  # type: ignore[operator]
    y, after = module.step(x, state, *rest)  # type: ignore[operator]
    for old, new in zip(pytree.tree_leaves(state), pytree.tree_leaves(after), strict=True):
        if isinstance(old, Tensor):
            old.copy_(new)
    return y

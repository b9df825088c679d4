"""Whether a module may be run in parts instead of being called."""

from torch import nn
from torch.nn.modules import module as torch_module


def is_plain(module: nn.Module) -> bool:
    """Whether nobody watches or has replaced the module's call: no hooks, no forward of its own."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return (
        not any(hooks)
        and module._compiled_call_impl is None
        and "forward" not in module.__dict__
        and not torch_module._has_any_global_hook()
    )

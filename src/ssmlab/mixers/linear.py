"""A linear layer that starts once, at construction, with the deviation that its place asks for."""

import math

import torch
from torch import Tensor, nn


def mark_no_weight_decay(parameter: nn.Parameter) -> nn.Parameter:
    """Tell the optimiser to leave ``parameter`` out of weight decay."""
    parameter._no_weight_decay = True  # type: ignore[attr-defined]
    return parameter


def mark_learning_rate(parameter: nn.Parameter, lr: float) -> nn.Parameter:
    """Tell the optimiser that the peak learning rate of ``parameter`` is at most ``lr``."""
    parameter._learning_rate = lr  # type: ignore[attr-defined]
    return parameter


class Linear(nn.Linear):
    """``nn.Linear`` with weights from N(0, (scale * std)²) and a zero bias that is not decayed.

    Arguments:
        std: standard deviation; None draws from U(±1/sqrt(in_features)), PyTorch's own default,
            which keeps the size of the output whatever the width.
        scale: factor on the start values, for example 1/sqrt(number of layers) on the last matrix of
            a residual branch (GPT-2's rule, which keeps the residual from growing with depth).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        std: float | None = 0.02,
        scale: float = 1.0,
    ) -> None:
        self.std = std
        self.scale = scale
        super().__init__(in_features, out_features, bias=bias)
        if bias:
            mark_no_weight_decay(self.bias)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the start values from the global generator of the parameters' device."""
        if self.std is None:
            bound = self.scale / math.sqrt(self.in_features)
            self.weight.uniform_(-bound, bound)
        else:
            self.weight.normal_(0.0, self.std * self.scale)
        bias: Tensor | None = self.bias
        if bias is not None:
            bias.zero_()

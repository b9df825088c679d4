"""Learned absolute positions, added to the residual stream before the first block.

Shapes: B batch, L length, M model width.
"""

import torch
from torch import Tensor, nn

from ssmlab.ops._checks import check_cu_seqlens


class LearnedPositions(nn.Module):
    """residual + E[position]; a layer as the residual blocks are, whose state is the position.

    Arguments:
        count: number of positions; longer sequences are refused.
        width: M.
        init_std: standard deviation of the start values.
    """

    def __init__(self, count: int, width: int, init_std: float) -> None:
        super().__init__()
        self.positions = nn.Embedding(count, width)
        nn.init.normal_(self.positions.weight, std=init_std)

    def forward(
        self,
        residual: Tensor,
        state: Tensor | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """residual (B, L, M) -> (residual (B, L, M), the position (B or S,) after it, or None).

        Raises:
            ValueError: a position at or beyond the number of positions.
        """
        batch, length, _ = residual.shape
        if cu_seqlens is None:
            start = residual.new_zeros(batch, dtype=torch.int64) if state is None else state
            index = start[:, None] + torch.arange(length, device=residual.device)
            after = start + length
        else:
            check_cu_seqlens(type(self).__name__, cu_seqlens, batch)
            lengths = cu_seqlens.diff().long()
            start = torch.zeros_like(lengths) if state is None else state
            offset = (start - cu_seqlens[:-1]).repeat_interleave(lengths)
            index = (offset + torch.arange(length, device=residual.device))[None]
            after = start + lengths
        return residual + self._embed(index, residual.dtype), after if return_state else None

    def step(self, residual: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """residual (B, M) and position (B,) -> both after one step."""
        return residual + self._embed(state, residual.dtype), state + 1

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Position 0 of each row, (B,) int64."""
        device = device or self.positions.weight.device
        return torch.zeros(batch_size, dtype=torch.int64, device=device)

    def _embed(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        count = self.positions.num_embeddings
        # Looked at on the CPU only: on a device it would wait for it, and the device checks itself.
        if index.device.type == "cpu" and int(index.max()) >= count:
            raise ValueError(
                f"position {int(index.max())} of a sequence, but the model has {count} learned "
                f"positions (max_positions); give shorter sequences, or a model with more"
            )
        return self.positions(index).to(dtype)

"""Batches of unequal texts: padded (B, L) with a mask, to packed (1, T) with offsets, and back.

A state space model carries whatever comes before a token into its state, so padding must not pass
through the layers at all: packed, it is not there, and each row is computed as if it were alone.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """The real tokens of a padded batch, row after row.

    Attributes:
        input_ids: (1, T) int64.
        cu_seqlens: (B+1,) int32 offsets of the rows.
        mask: (B, L) bool, where the real tokens were.
    """

    input_ids: Tensor
    cu_seqlens: Tensor
    mask: Tensor


def pack(input_ids: Tensor, attention_mask: Tensor) -> Packed:
    """Take the padding out of a batch.

    Args:
        input_ids: (B, L) whole numbers.
        attention_mask: (B, L); nonzero for a token of the text, 0 for padding, left or right.

    Raises:
        ValueError: the mask has another shape, a row has no token, or there is padding between
            tokens.
    """
    if attention_mask.shape != input_ids.shape or input_ids.dim() != 2:
        raise ValueError(
            f"attention_mask: expected the shape (B, L) of input_ids {tuple(input_ids.shape)}, got "
            f"{tuple(attention_mask.shape)}"
        )
    mask = attention_mask.to(device=input_ids.device, dtype=torch.bool)
    lengths = mask.sum(1)
    first = mask.int().argmax(1)
    last = mask.shape[1] - mask.flip(1).int().argmax(1)
    gaps = torch.nonzero((lengths == 0) | (last - first != lengths)).flatten().tolist()
    if gaps:
        raise ValueError(
            f"attention_mask: row {gaps[0]} has no token, or padding between tokens; expected one "
            "unbroken run of tokens in each row, padded on the left or the right"
        )
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int32, device=input_ids.device)
    offsets[1:] = lengths.cumsum(0)
    return Packed(input_ids[mask][None], offsets, mask)


def unpack(values: Tensor, packed: Packed) -> Tensor:
    """(1, T, X) of the real tokens -> (B, L, X), zeros where the padding was."""
    out = values.new_zeros(*packed.mask.shape, values.shape[-1])
    index = packed.mask.flatten().nonzero().flatten()
    return out.flatten(0, 1).index_copy(0, index, values[0]).unflatten(0, packed.mask.shape)


def pad_left(rows: list[Tensor], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of unequal length (each 1-d int64) -> input_ids and attention_mask, both (B, L)."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = True
    return ids, mask

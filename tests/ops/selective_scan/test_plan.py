"""How a scan is cut into tasks: everything once, whatever the shapes."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.ops.selective_scan.cpu import plan as planning
from ssmlab.ops.selective_scan.cpu import tile


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from([1, 2, 3, 6]),
    st.sampled_from([1, 2, 3, 6]),
    st.lists(st.integers(0, 200), max_size=50),
)
def test_every_channel_of_every_sequence_once(
    batch: int, times: int, n: int, groups_B: int, groups_C: int, lengths: list[int]
) -> None:
    channels = 6 * times * times
    u = torch.empty(batch, 10, channels)
    offsets = None
    if lengths:
        offsets = torch.tensor([0, *np.cumsum([*lengths, 1])])
        u = torch.empty(1, int(offsets[-1]), channels)
    B = torch.empty(*u.shape[:2], groups_B, n)
    C = torch.empty(*u.shape[:2], groups_C, n)
    plan = planning.make_plan(u, n, B, C, offsets)
    seen = np.zeros((len(plan.sequences), channels), int)
    for task in plan.tasks:
        first, end = task[tile.FIRST_CHANNEL], task[tile.END_CHANNEL]
        seen[task[tile.FIRST_SEQUENCE] : task[tile.END_SEQUENCE], first:end] += 1
        # A task's channels lie within one group of B and one of C.
        for groups, column in ((groups_B, tile.GROUP_B), (groups_C, tile.GROUP_C)):
            size = channels // groups
            assert first // size == (end - 1) // size == task[column]
        assert 0 <= task[tile.LANE] < plan.lanes
        assert 0 <= task[tile.SLAB] < plan.slabs
    assert (seen == 1).all()
    # A lane and a slab meet in one task only, so that no two tasks write to the same place.
    places = plan.tasks[:, [tile.LANE, tile.SLAB]]
    assert len({tuple(place) for place in places.tolist()}) == len(places)


def test_sum_slabs() -> None:
    parts = np.arange(4 * 3 * 2, dtype=float).reshape(4, 3, 2)
    total = planning.sum_slabs(parts, (0, 0, 1, 1))
    np.testing.assert_array_equal(total[:, 0], parts[0] + parts[1])
    np.testing.assert_array_equal(total[:, 1], parts[2] + parts[3])

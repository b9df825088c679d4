"""How a scan is laid out on the GPU: the warps of a block, and whether time is split.

Shapes: B batch, L length, D channels, N state.
"""

from dataclasses import dataclass, replace

from ssmlab.ops.selective_scan.cuda.inputs import Sizes

SEGMENT = 16  # steps between states kept for the backward pass; the kernels' constant too
_WHOLE = 1 << 40  # a chunk longer than any sequence: time is not split


@dataclass(frozen=True)
class ForwardPlan:
    """A block of the forward kernel: see forward.cuh for the letters.

    ``chunk`` is the number of steps that one block walks; a multiple of ``TT``.
    """

    S: int
    WS: int
    WC: int
    PW: int
    TT: int
    min_blocks: int
    chunk: int = _WHOLE

    @property
    def channels(self) -> int:
        """Channels a block."""
        return 16 * self.WC

    @property
    def threads(self) -> int:
        """Threads a block."""
        return 32 * (self.WS * self.WC + self.PW)

    def shared(self, mode: int) -> int:
        """Bytes of shared memory a block, as ForwardShape has it."""
        quads, n = 4 * self.WC, 4 * self.S * self.WS
        floats = 4 * (2 * quads + 4) + 2 * n
        if not mode:
            floats += 2 * (4 * self.WS * (2 * quads + 4) + (8 if quads == 4 else 0))
        return 2 * 4 * self.TT * floats

    def cpp(self) -> str:
        """Its template arguments."""
        return f"{self.S}, {self.WS}, {self.WC}, {self.PW}, {self.TT}"


@dataclass(frozen=True)
class BackwardPlan:
    """A block of the backward kernel: see backward.cuh for the letters."""

    WS: int
    WC: int
    TT: int
    WIN: int
    min_blocks: int
    chunk: int = _WHOLE

    @property
    def channels(self) -> int:
        """Channels a block."""
        return 8 * self.WC

    @property
    def threads(self) -> int:
        """Threads a block."""
        return 32 * self.WS * self.WC

    def shared(self, element: int) -> int:
        """Bytes of shared memory a block for elements of so many bytes, as BackwardShape has it."""
        quads, warps, ct, threads = 2 * self.WC, self.WS * self.WC, 8 * self.WC, self.threads
        step = 4 * (2 * quads + 4) + 2 * ct + 32 * self.WS + 2 * self.WS * (ct + 8) + 36 * warps
        floats = self.TT * step + warps * 4 * 144 + 8 * threads + 2 * ct
        floats += 8 * threads * self.TT // SEGMENT
        rows = max(1, self.TT * quads // threads)
        raw = 24 * rows * threads + 8 * threads * -(-self.TT * self.WS * 4 // threads)
        return 4 * floats + element * raw + 128

    def cpp(self) -> str:
        """Its template arguments."""
        return f"{self.WS}, {self.WC}, {self.TT}, {self.WIN}"


def plan_forward(sizes: Sizes, multiprocessors: int) -> ForwardPlan:
    """The layout for these sizes."""
    schedulers = 4 * multiprocessors
    groups = sizes.sequences * -(-sizes.channels // 16)
    n = sizes.states
    least = 1 if n <= 16 else (2 if n <= 32 else 4)  # at most four warps share a channel's states
    choices = [S for S in (4, 2, 1) if least <= S <= max(least, (n - 1) // 2)]
    # The more states a lane holds the less it loads, but two warps a scheduler must remain.
    S = next((S for S in choices if groups * -(-n // (4 * S)) >= 1.8 * schedulers), choices[-1])
    WS = -(-n // (4 * S))
    WS = WS if WS != 3 else 4
    WC = max(1, 4 // WS)
    warps = groups * WS
    chunk = split_time(sizes, warps, schedulers)
    return ForwardPlan(S, WS, WC, max(WC, 1), 32, 2, chunk)


def plan_backward(sizes: Sizes, multiprocessors: int) -> BackwardPlan:
    """The layout for these sizes."""
    schedulers = 4 * multiprocessors
    WS = {1: 1, 2: 2}.get(-(-sizes.states // 16), 4)
    WC = max(1, 4 // WS)
    warps = sizes.sequences * -(-sizes.channels // 8) * WS
    return BackwardPlan(
        WS, WC, 16 if WS < 4 else 32, 8, 4, split_time(sizes, warps, 3 * schedulers)
    )


def split_time(sizes: Sizes, warps: int, wanted: int) -> int:
    """Steps a chunk so that there are about the wanted number of warps; _WHOLE for no split.

    Splitting runs the recurrence once more, for the chunks' own states, so little is gained by
    splitting in two.
    """
    split = wanted // max(1, warps)
    if sizes.offsets is not None:
        split //= 2  # packed sequences are shorter than the length
    if split < 3:
        return _WHOLE
    steps = -(-sizes.length * (sizes.batch if sizes.offsets is None else 1) // sizes.sequences)
    return max(64, (steps // split + 31) // 32 * 32)


def all_plans() -> tuple[list[ForwardPlan], list[BackwardPlan]]:
    """Every layout that the two functions above can choose, without the chunk."""
    forwards: dict[ForwardPlan, None] = {}
    backwards: dict[BackwardPlan, None] = {}
    for n in (4, 8, 16, 32, 48, 64):
        for batch in (1, 2, 4, 8, 16, 64):
            sizes = Sizes(batch, 2048, 2048, n, batch, 2048, 2048, 2048, None)
            forwards[replace(plan_forward(sizes, 132), chunk=_WHOLE)] = None
            backwards[replace(plan_backward(sizes, 132), chunk=_WHOLE)] = None
    return list(forwards), list(backwards)

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
    AHEAD: int
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

    def shared(self, mode: int, element: int, bf16: bool) -> int:
        """Bytes of shared memory a block for elements of so many bytes, as ForwardShape has it."""
        quads, n, feeders = 4 * self.WC, 4 * self.S * self.WS, 32 * self.PW
        floats = 4 * (2 * quads + 4) + 2 * n
        if not mode:
            parts = self.WS if bf16 else 4 * self.WS
            floats += 2 * (parts * (2 * quads + 4) + (8 if quads == 4 else 0))
        raw = 3 * self.TT * quads + 2 * feeders * -(-self.TT * n // 4 // feeders)
        return 8 * self.TT * floats + (self.AHEAD + 2) * 4 * element * raw

    def cpp(self) -> str:
        """Its template arguments."""
        return f"{self.S}, {self.WS}, {self.WC}, {self.PW}, {self.TT}, {self.AHEAD}"


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
    """The layout for these sizes.

    The more states a lane holds the less it loads, so four if that gives each scheduler one and a
    half warps. With fewer channels, two; with fewer still, four again and time split.
    """
    schedulers = 4 * multiprocessors
    groups = sizes.sequences * -(-sizes.channels // 16)
    n = sizes.states
    if n <= 4:
        return _split(ForwardPlan(1, 1, 4, 4, 16, 2, 2), sizes, multiprocessors)
    if n <= 8:
        return _split(ForwardPlan(2, 1, 4, 4, 16, 2, 2), sizes, multiprocessors)
    if n <= 16:
        if 0.45 * schedulers <= groups < 1.5 * schedulers:
            return ForwardPlan(2, 2, 2, 4, 16, 2, 2)
        return _split(ForwardPlan(4, 1, 4, 4, 16, 2, 2), sizes, multiprocessors)
    if n <= 32:
        return _split(ForwardPlan(4, 2, 2, 4, 16, 2, 2), sizes, multiprocessors)
    return _split(ForwardPlan(4, 4, 1, 2, 16, 2, 2), sizes, multiprocessors)


def _split(plan: ForwardPlan, sizes: Sizes, multiprocessors: int) -> ForwardPlan:
    blocks = sizes.blocks(plan.channels)
    return replace(plan, chunk=split_time(sizes, blocks, 2 * multiprocessors))


def plan_backward(sizes: Sizes, multiprocessors: int) -> BackwardPlan:
    """The layout for these sizes: four warps a block, two blocks a multiprocessor."""
    WS = 1 if sizes.states <= 16 else (2 if sizes.states <= 32 else 4)
    plan = BackwardPlan(WS, 4 // WS, 16, 16, 2)
    blocks = sizes.blocks(plan.channels)
    # Two waves of blocks: a last wave that is half empty then costs less.
    wanted = 4 * multiprocessors if 2 * sizes.sequences * blocks < 4 * multiprocessors else 0
    return replace(plan, chunk=split_time(sizes, blocks, wanted))


def split_time(sizes: Sizes, blocks: int, wanted: int) -> int:
    """Steps a chunk for about the wanted number of blocks; _WHOLE where time is not split.

    Splitting runs the recurrence once more, for the chunks' own states, so splitting in two gains
    nothing. How long packed sequences are is not known here: they count as equally long.
    """
    split = wanted // max(1, blocks * sizes.sequences)
    if split < 3:
        return _WHOLE
    steps = sizes.batch * sizes.length // sizes.sequences
    return max(64, -(-steps // (32 * split)) * 32)


def all_plans() -> tuple[list[ForwardPlan], list[BackwardPlan]]:
    """Every layout that the two functions above can choose, without the chunk."""
    forwards: dict[ForwardPlan, None] = {}
    backwards: dict[BackwardPlan, None] = {}
    for n in (4, 8, 16, 32, 64):
        for batch in (1, 2, 4, 8, 16, 64):
            sizes = Sizes(batch, 2048, 2048, n, batch, 2048, 2048, 2048, None)
            forwards[replace(plan_forward(sizes, 132), chunk=_WHOLE)] = None
            backwards[replace(plan_backward(sizes, 132), chunk=_WHOLE)] = None
    return list(forwards), list(backwards)

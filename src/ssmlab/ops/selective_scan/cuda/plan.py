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

    ``chunk`` is the number of steps that one block walks; a multiple of SEGMENT.
    """

    S: int
    WS: int
    WC: int
    PW: int
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

    def shared(self, reverse: bool, element: int) -> int:
        """Bytes of shared memory a block for elements of so many bytes, as ForwardShape has it."""
        quads, n, feeders = 4 * self.WC, 4 * self.S * self.WS, 32 * self.PW
        floats = 4 * (2 * quads + 4) + 2 * n
        if not reverse:  # outputs
            floats += 2 * (4 * self.WS * (2 * quads + 4) + (8 if quads == 4 else 0))
        raw = 3 * SEGMENT * quads + 2 * feeders * -(-SEGMENT * n // 4 // feeders)
        return 8 * SEGMENT * floats + (self.AHEAD + 2) * 4 * element * raw

    def cpp(self) -> str:
        """Its template arguments."""
        return f"{self.S}, {self.WS}, {self.WC}, {self.PW}, {self.AHEAD}"


@dataclass(frozen=True)
class BackwardPlan:
    """A block of the backward kernel: see backward.cuh for the letters.

    ``run_registers`` and ``feed_registers`` are those of a thread of each kind, 0 and 0 for equal
    shares: GPUs before compute capability 9.0 cannot hand registers over.
    """

    WS: int
    WC: int
    WIN: int
    AHEAD: int
    run_registers: int
    feed_registers: int
    min_blocks: int
    chunk: int = _WHOLE

    @property
    def channels(self) -> int:
        """Channels a block."""
        return 8 * self.WC

    @property
    def threads(self) -> int:
        """Threads a block."""
        return 64 * self.WS * self.WC

    def shared(self, element: int) -> int:
        """Bytes of shared memory a block for elements of so many bytes, as BackwardShape has it."""
        quads, warps, ct, feeders = 2 * self.WC, self.WS * self.WC, 8 * self.WC, self.threads // 2
        step = 4 * (2 * quads + 4) + 2 * ct + 32 * self.WS + 2 * self.WS * (ct + 8) + 36 * warps
        floats = 2 * SEGMENT * step + warps * 4 * 144 + 8 * feeders + 2 * ct
        rows = max(1, SEGMENT * quads // feeders)
        u, others = 4 * rows * feeders, 16 * rows * feeders
        factors = 8 * feeders * -(-SEGMENT * self.WS * 4 // feeders)
        raw = (self.AHEAD + 2) * u + (self.AHEAD + 1) * (others + factors)
        return 4 * floats + element * raw

    def cpp(self) -> str:
        """Its template arguments."""
        return (
            f"{self.WS}, {self.WC}, {self.WIN}, {self.AHEAD}, {self.run_registers}, "
            f"{self.feed_registers}"
        )


@dataclass(frozen=True)
class Device:
    """What a layout depends on: multiprocessors and compute capability."""

    multiprocessors: int = 132
    capability: tuple[int, int] = (9, 0)


def plan_forward(sizes: Sizes, device: Device, element: int) -> ForwardPlan:
    """The layout for these sizes and elements of so many bytes.

    The more states a lane holds the less it loads, so four if that gives each scheduler one and a
    half warps. With fewer channels, two; with fewer still, four again and time split.
    """
    schedulers = 4 * device.multiprocessors
    groups = sizes.sequences * -(-sizes.channels // 16)
    n = sizes.states
    if n > 32:
        return _split(ForwardPlan(4, 4, 1, 2, 2, 2), sizes, device)
    if n > 16:
        return _split(ForwardPlan(4, 2, 2, 4, 2, 2), sizes, device)
    if n > 8 and 0.45 * schedulers <= groups < 1.5 * schedulers:
        return ForwardPlan(2, 2, 2, 4, 2, 2)
    S = 4 if n > 8 else (2 if n > 4 else 1)
    # Wide elements take twice the shared memory, so half the channels.
    plan = ForwardPlan(S, 1, 4, 4, 2, 2) if element == 2 else ForwardPlan(S, 1, 2, 2, 2, 4)
    return _split(plan, sizes, device)


def _split(plan: ForwardPlan, sizes: Sizes, device: Device) -> ForwardPlan:
    wanted = plan.min_blocks * device.multiprocessors
    return replace(plan, chunk=split_time(sizes, sizes.blocks(plan.channels), wanted, opened=1))


def plan_backward(sizes: Sizes, device: Device, element: int) -> BackwardPlan:
    """The layout for these sizes: four warps a block run and four feed, two blocks at a time."""
    WS = 1 if sizes.states <= 16 else (2 if sizes.states <= 32 else 4)
    plan = BackwardPlan(WS, 4 // WS, 16, 1, 200, 56, 2)
    if device.capability >= (10, 0) and WS > 1:
        plan = replace(plan, WIN=8)  # the assembler does not fit 16 into these registers
    elif device.capability < (9, 0):
        # Equal shares of registers: a short window, or one block where no second one fits.
        WIN, min_blocks = (4, 2) if element == 2 else (16, 1)
        plan = BackwardPlan(WS, 4 // WS, WIN, 1, 0, 0, min_blocks)
    blocks = sizes.blocks(plan.channels)
    # Two waves of blocks: a last wave that is half empty then costs less.
    few = sizes.sequences * blocks < 2 * device.multiprocessors
    wanted = 4 * device.multiprocessors if few else 0
    return replace(plan, chunk=split_time(sizes, blocks, wanted))


def along_time(plan: BackwardPlan, device: Device) -> BackwardPlan:
    """The same where tensors are (B, D, L): there too the assembler does not fit 16 steps."""
    return replace(plan, WIN=min(plan.WIN, 8)) if device.capability >= (10, 0) else plan


def split_time(sizes: Sizes, blocks: int, wanted: int, opened: int = 0) -> int:
    """Steps a chunk for about the wanted number of blocks; _WHOLE where time is not split.

    Splitting runs the recurrence once more, for the chunks' own states, so splitting in two gains
    nothing. How long packed sequences are is not known here: they count as equally long.
    ``opened`` chunks of each sequence are done by then, beside the other chunks' states.
    """
    split = wanted // max(1, blocks * sizes.sequences)
    if split < 3:
        return _WHOLE
    steps = sizes.batch * sizes.length // sizes.sequences
    return max(64, -(-steps // (32 * (split + opened))) * 32)


def all_plans(
    device: Device, element: int
) -> tuple[tuple[ForwardPlan, ...], tuple[BackwardPlan, ...]]:
    """Every layout that the two functions above can choose for a device, without the chunk."""
    forwards: dict[ForwardPlan, None] = {}
    backwards: dict[BackwardPlan, None] = {}
    for n in (16, 4, 8, 32, 64):
        for batch in (8, 1, 2, 4):
            sizes = Sizes(batch, 2048, 2048, n, batch, 2048, 2048, 2048, None)
            forwards[replace(plan_forward(sizes, device, element), chunk=_WHOLE)] = None
            backwards[replace(plan_backward(sizes, device, element), chunk=_WHOLE)] = None
    return tuple(forwards), tuple(backwards)

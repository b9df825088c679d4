"""The switches of the S6 mixer: what Tables 7 to 10 of the Mamba paper vary, and a selective A."""

import typing
from dataclasses import dataclass, replace
from typing import Literal

from ssmlab.core.errors import ConfigError
from ssmlab.mixers.checks import check_choice, check_positive_float, check_positive_int

AInit = Literal["s4d-real", "s4d-lin", "s4d-lin-printed", "constant", "random"]
DtInit = Literal["log-uniform", "uniform"]
ConstantInit = Literal["matched", "s4d"]

COMPLEX_INITS: tuple[str, ...] = ("s4d-lin", "s4d-lin-printed")


@dataclass(frozen=True)
class S6Config:
    """Switches of the S6 mixer (Algorithm 2 of arXiv 2312.00752).

    Attributes:
        d_state: N, real numbers of state per channel. A complex A keeps N/2 conjugate pairs, so that
            the size of the state and the number of parameters are those of a real A.
        dt_rank: R, rank of the projection that makes Δ; "auto" is ceil(d_model / 16) of the block
            around the mixer. At most the number of channels. Also the rank of a selective A; without
            effect where both Δ and A are static.
        selective_delta: Δ depends on the input; otherwise it is one learned number per channel.
        selective_B, selective_C: B (C) depends on the input; otherwise it is a learned (D, N).
        selective_A: A depends on the input too: A_t = A a_t, with a factor a_t > 0 for each channel
            that is made from the input as Δ is (see ``S6``). Section 3.5.2 leaves this as a
            hypothesis; no fast path but the scan's own knows it.
        constant_init: start of a constant B or C, which the paper leaves open. "matched" is
            N(0, 0.14²), the size at which a selective one starts in a Mamba block, so that rows of an
            ablation differ in selection and not in how loud the state is at first; "s4d" is B = 1 and
            C from N(0, 1), as S4D has them (arXiv 2206.11893, section 4).
        a_init: start value of A_n, n = 0 ... N-1. "s4d-real" is -(n+1); "constant" is -1/2; "random"
            is -exp(N(0,1)); "s4d-lin" is -1/2 + iπn, as S4D defines it; "s4d-lin-printed" is
            -1/2 + in, as Table 8 of the paper prints it. The last two make A complex.
        dt_min, dt_max: range from which the start value of Δ is drawn, per channel.
        dt_init_floor: least start value of Δ.
        dt_init: "log-uniform" as the released code, or "uniform" as section 3.6 of the paper prints.
    """

    d_state: int = 16
    dt_rank: int | Literal["auto"] = "auto"
    selective_delta: bool = True
    selective_B: bool = True
    selective_C: bool = True
    selective_A: bool = False
    constant_init: ConstantInit = "matched"
    a_init: AInit = "s4d-real"
    dt_min: float = 1e-3
    dt_max: float = 0.1
    dt_init_floor: float = 1e-4
    dt_init: DtInit = "log-uniform"

    def __post_init__(self) -> None:
        check_positive_int("S6Config", d_state=self.d_state)
        if self.dt_rank != "auto":
            if isinstance(self.dt_rank, str):
                raise ConfigError(
                    f"S6Config.dt_rank: expected a whole number >= 1 or 'auto', got {self.dt_rank!r}"
                )
            check_positive_int("S6Config", dt_rank=self.dt_rank)
        check_choice("S6Config", "a_init", self.a_init, typing.get_args(AInit))
        check_choice("S6Config", "constant_init", self.constant_init, typing.get_args(ConstantInit))
        check_choice("S6Config", "dt_init", self.dt_init, typing.get_args(DtInit))
        check_positive_float(
            "S6Config", dt_min=self.dt_min, dt_max=self.dt_max, dt_init_floor=self.dt_init_floor
        )
        if self.dt_min > self.dt_max:
            raise ConfigError(
                f"S6Config: dt_min={self.dt_min} is above dt_max={self.dt_max}; "
                "give dt_min <= dt_max"
            )
        if self.is_complex and self.d_state % 2:
            raise ConfigError(
                f"S6Config.d_state={self.d_state} with the complex a_init={self.a_init!r}: the state "
                f"is kept as d_state/2 conjugate pairs, so give an even d_state, for example "
                f"{self.d_state + 1}, or a real a_init"
            )

    @property
    def is_complex(self) -> bool:
        """Whether A, B, C and the state are complex."""
        return self.a_init in COMPLEX_INITS

    def effective(self, dt_rank: int) -> "S6Config":
        """The same mixer with everything without effect at its default.

        Args:
            dt_rank: R, "auto" resolved.
        """
        return replace(
            self,
            dt_rank=dt_rank if self.selective_delta or self.selective_A else "auto",
            constant_init="matched"
            if self.selective_B and self.selective_C
            else self.constant_init,
        )

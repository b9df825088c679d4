"""S4D and S4: kernels against a dense simulation, convolution against scan, start values, HiPPO."""

import itertools
import math

import pytest
import torch

from ssmlab.mixers import S4, S4D, S4Config, S4DConfig
from ssmlab.mixers.s4 import hippo_legs
from ssmlab.mixers.s4d import S4DInit
from ssmlab.ops import fft_conv
from tests.mixers.zoo import TIME_INVARIANT, close, make, sequence

D = 5
INITS = S4DInit.__args__


def s4d(seed=0, **values) -> S4D:
    torch.manual_seed(seed)
    return S4D(S4DConfig(**{"d_state": 8, **values}), D).double()


def pairs(v: torch.Tensor) -> torch.Tensor:
    """One of each conjugate pair -> all states."""
    return torch.cat([v, v.conj()], -1)


def dense(mixer, length: int) -> torch.Tensor:
    """The kernel by running the full (N, N) recurrence of each channel on a unit impulse, from the
    parameters alone."""
    dt = mixer.log_dt.exp()
    as_complex = torch.view_as_complex
    if isinstance(mixer, S4):
        poles = -mixer.A_log.exp() + 1j * mixer.A_imag
        P, B, C = (pairs(as_complex(v)) for v in (mixer.P, mixer.B, mixer.C))
        A = torch.diag_embed(pairs(poles)) - P[..., :, None] * P[..., None, :].conj()
        method = "bilinear"
    else:
        poles = -mixer.A_log.exp()
        B, C = mixer.B, mixer.C
        if mixer.A_imag is not None:
            poles = pairs(poles + 1j * mixer.A_imag)
            B, C = pairs(as_complex(B)), pairs(as_complex(C))
        A, method = torch.diag_embed(poles), mixer.config.discretisation
    n, kernels = A.shape[-1], []
    A, B = (v.expand(D, *v.shape[1:]).to(torch.complex128) for v in (A, B))
    eye = torch.eye(n, dtype=A.dtype)
    for d in range(D):
        if method == "zoh":
            # exp of [[A, B], [0, 0]] Δ holds Ā and B̄.
            both = torch.zeros(n + 1, n + 1, dtype=A.dtype)
            both[:n, :n], both[:n, n] = A[d], B[d]
            both = torch.linalg.matrix_exp(dt[d] * both)
            A_bar, B_bar = both[:n, :n], both[:n, n]
        else:
            left = torch.linalg.inv(eye - dt[d] / 2 * A[d])
            A_bar, B_bar = left @ (eye + dt[d] / 2 * A[d]), left @ (dt[d] * B[d])
        h, outputs = B_bar, []
        for _ in range(length):
            outputs.append((C[d] * h).sum())
            h = A_bar @ h
        kernels.append(torch.stack(outputs))
    kernel = torch.stack(kernels)
    assert kernel.imag.abs().max() < 1e-10
    return kernel.real


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
@pytest.mark.parametrize("a_init", INITS)
def test_s4d_kernel_equals_a_dense_simulation(a_init, discretisation, tied):
    mixer = s4d(a_init=a_init, discretisation=discretisation, tied=tied)
    close(mixer.kernel(50), dense(mixer, 50), 1e-10)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, 50, 51])
def test_s4_kernel_equals_a_dense_simulation(length, tied):
    torch.manual_seed(0)
    mixer = S4(S4Config(d_state=8, tied=tied), D).double()
    close(mixer.kernel(length), dense(mixer, length), 1e-10)


@pytest.mark.parametrize("n", [16, 64])
@pytest.mark.parametrize("kind", ["s4", "s4d"])
def test_at_the_sizes_in_use_kernels_agree_to_1e_8(kind, n):
    torch.manual_seed(0)
    mixer = S4(S4Config(d_state=n), D) if kind == "s4" else S4D(S4DConfig(d_state=n), D)
    mixer = mixer.double()
    close(mixer.kernel(300), dense(mixer, 300), 1e-8)


def test_s4_made_in_blocks_of_frequencies_is_the_same(monkeypatch):
    torch.manual_seed(0)
    mixer = S4(S4Config(d_state=8), D).double()
    names = list(dict(mixer.named_parameters()))
    whole = mixer.kernel(40)
    grads = torch.autograd.grad(whole.square().sum(), list(mixer.parameters())[1:])
    monkeypatch.setattr("ssmlab.mixers.s4._BLOCK", 8 * D)
    parts = mixer.kernel(40)
    again = torch.autograd.grad(parts.square().sum(), list(mixer.parameters())[1:])
    close(whole, parts, 1e-12)
    for name, one, other in zip(names[1:], grads, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("name", TIME_INVARIANT)
def test_convolution_equals_scan(name):
    mixer = make(name)
    for length in (1, 63, 64, 65, 200):
        x = sequence(2, length)
        close(mixer(x), mixer.scan(x, None)[0], 1e-10)
    single = mixer.float()
    x = sequence(2, 500).float()
    close(single(x), single.scan(x, None)[0], 1e-4)


@pytest.mark.parametrize("cls", [S4, S4D])
def test_scan_mode_is_what_the_config_says(cls, monkeypatch):
    config = S4Config if cls is S4 else S4DConfig
    torch.manual_seed(0)
    mixer = cls(config(d_state=4, mode="scan"), 6).double()
    x = sequence()
    expected = mixer.scan(x, None)[0]
    monkeypatch.setattr(mixer, "kernel", None)  # the convolution would call it
    close(mixer(x), expected, 0.0)
    assert mixer.whole_filter(20) is None


@pytest.mark.parametrize("name", [*TIME_INVARIANT, "long-conv"])
def test_the_whole_filter_is_all_a_mixer_does(name):
    mixer, x = make(name), sequence()
    close(fft_conv(x, mixer.whole_filter(x.shape[1])), mixer(x))


def test_gate():
    mixer, x = make("s4d-lin"), sequence()
    z = torch.randn_like(x)
    close(mixer(x, z), mixer(x) * torch.nn.functional.silu(z))
    y, _ = mixer.step(x[:, 0], mixer.init_state(2), z[:, 0])
    close(y, mixer(x, z)[:, 0])


def test_start_values_of_A():
    def poles(**values):
        mixer = s4d(**values)
        A = -mixer.A_log.exp()
        return A if mixer.A_imag is None else A + 1j * mixer.A_imag

    n = torch.arange(4, dtype=torch.float64)
    expected = {
        "s4d-lin": -0.5 + 1j * math.pi * n,
        "s4d-lin-printed": -0.5 + 1j * n,
        "s4d-inv": -0.5 + 1j * 8 / math.pi * (8 / (2 * n + 1) - 1),
        "s4d-real": -(torch.arange(8, dtype=torch.float64) + 1),
        "constant": torch.full((8,), -0.5, dtype=torch.float64),
    }
    for a_init, start in expected.items():
        torch.testing.assert_close(poles(a_init=a_init), start.expand(D, -1), rtol=1e-6, atol=1e-6)
    random = poles(a_init="random-complex")
    assert ((random.imag >= 0) & (random.imag < 4 * math.pi)).all()
    assert poles(a_init="random", tied=True).shape == (1, 8)


@pytest.mark.parametrize("n", [2, 16, 64])
def test_hippo_legs_is_the_matrix_of_the_paper(n):
    poles, P, B = (v.to(torch.complex128) for v in hippo_legs(n))
    i, root = torch.arange(n), torch.sqrt(2.0 * torch.arange(n) + 1).double()
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for row, column in itertools.product(range(n), range(n)):
        if row > column:
            matrix[row, column] = -root[row] * root[column]
    matrix -= torch.diag(i.double() + 1)
    A = torch.diag(pairs(poles)) - torch.outer(pairs(P), pairs(P).conj())
    # The same system in another basis: same poles, same response to B.
    values = torch.linalg.eigvals(matrix)
    ours = torch.linalg.eigvals(A)
    for power in (1, 2):
        torch.testing.assert_close(
            (ours**power).sum().real, (values**power).sum().real, rtol=1e-4, atol=1e-3
        )
    right, mine = root, pairs(B)
    for _ in range(3):  # |A^k B| is the same in an orthonormal basis
        torch.testing.assert_close(
            mine.norm(), right.norm().to(mine.norm().dtype), rtol=1e-4, atol=0
        )
        right, mine = matrix @ right, A @ mine


def test_delta_starts_log_uniform_in_its_range():
    torch.manual_seed(0)
    for mixer in (S4D(S4DConfig(), 4000), S4(S4Config(d_state=2), 4000)):
        log_dt = mixer.log_dt
        assert log_dt.min() >= math.log(1e-3) - 1e-4
        assert log_dt.max() <= math.log(0.1) + 1e-4
        assert log_dt.mean().item() == pytest.approx(math.log(1e-2), abs=0.06)


def test_dynamics_learn_slowly_and_do_not_decay():
    for mixer in (S4D(S4DConfig(), D), S4(S4Config(d_state=4), D)):
        own = {n for n, p in mixer.named_parameters() if getattr(p, "_learning_rate", 0) == 1e-3}
        assert own == {"A_log", "A_imag", "B", "log_dt"} | (
            {"P"} if isinstance(mixer, S4) else set()
        )
        assert all(p._no_weight_decay for n, p in mixer.named_parameters() if n != "C")
    free = S4D(S4DConfig(lr=None), D)
    assert not any(hasattr(p, "_learning_rate") for p in free.parameters())

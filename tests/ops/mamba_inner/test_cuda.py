"""The fused Mamba block on a GPU, against single operators in float64 on the CPU."""

import pytest
import torch
from torch import Tensor

from ssmlab.blocks import Mamba, MambaConfig
from ssmlab.models.config import LanguageModelConfig
from ssmlab.models.language_model import LanguageModel
from ssmlab.ops import mamba_inner
from ssmlab.ops._cuda import launch_count
from ssmlab.ops.mamba_inner import RECOMPUTE
from tests.ops.mamba_inner.compose import compose, inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def close(actual: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    difference = (actual.double().cpu() - expected).norm()
    assert difference <= tolerance * expected.norm(), f"{name}: {difference} of {expected.norm()}"


def compare(dtype: torch.dtype, recompute: str, offsets: list[int] | None = None, **options):
    sizes = {"channels": 64, "states": 16, "rank": 4, "model": 32, **options}
    xz, weights = inputs(dtype, device="cuda", **sizes)
    leaves = [t for t in (xz, *weights) if t is not None]
    cu_seqlens = None if offsets is None else torch.tensor(offsets, dtype=torch.int32)
    before = launch_count()
    y = mamba_inner(
        xz, *weights, None if offsets is None else cu_seqlens.cuda(), recompute=recompute
    )
    gradient = torch.randn_like(y)
    grads = torch.autograd.grad(y, leaves, gradient)
    assert launch_count() > before + 4
    moved = [
        None if t is None else t.detach().double().cpu().requires_grad_() for t in (xz, *weights)
    ]
    expected = compose(moved[0], moved[1:], cu_seqlens)
    close(y, expected, TOLERANCE[dtype], "output")
    wanted = torch.autograd.grad(
        expected, [t for t in moved if t is not None], gradient.double().cpu()
    )
    for place, (actual, value) in enumerate(zip(grads, wanted, strict=True)):
        assert actual.dtype == leaves[place].dtype
        close(actual, value, TOLERANCE[dtype], f"gradient {place}")


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_dtypes(dtype: torch.dtype, recompute: str) -> None:
    compare(dtype, recompute, length=130)


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("selective", ["d", "BC", "dB", ""])
def test_constant_signals(selective: str, recompute: str) -> None:
    compare(torch.float32, recompute, selective=selective)


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_packed_and_odd_sizes(recompute: str) -> None:
    compare(torch.float32, recompute, offsets=[0, 1, 34, 34, 90], batch=1, length=90)
    compare(torch.float32, recompute, channels=30, model=15, states=5, width=3)


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_compiled_without_a_break(recompute: str) -> None:
    xz, weights = inputs(torch.bfloat16, device="cuda", channels=64, model=32, states=16, rank=4)

    def run(xz: Tensor) -> Tensor:
        return mamba_inner(xz, *weights, recompute=recompute).tanh()

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True)
    (expected,) = torch.autograd.grad(run(xz).float().sum(), [xz])
    (actual,) = torch.autograd.grad(compiled(xz).float().sum(), [xz])
    close(actual, expected.double().cpu(), 2e-2, "gradient")


def test_the_same_bits_every_run() -> None:
    xz, weights = inputs(
        torch.bfloat16, device="cuda", channels=128, model=64, states=16, length=300
    )
    leaves = [t for t in (xz, *weights) if t is not None]
    first = None
    for _ in range(20):
        y = mamba_inner(xz, *weights)
        results = (y, *torch.autograd.grad(y.float().square().sum(), leaves))
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(first, results, strict=True))


def test_memory_of_a_layer() -> None:
    """Bytes on the device, per token and channel of the model: the paper's 16 or less."""
    width, tokens = 256, 4 * 2048
    mamba = Mamba(MambaConfig(), width).cuda()
    x = torch.randn(4, 2048, width, device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        mamba(x).float().sum().backward()  # kernels and workspaces are there from here on
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        y = mamba(x)
    kept = torch.cuda.memory_allocated() - before - y.untyped_storage().nbytes()
    # in_proj's input 2, xz 8, and copies of the weights in bfloat16, which grow with no token.
    assert kept / (tokens * width) < 11


def test_a_model_trains_alike_with_and_without() -> None:
    ids = torch.randint(50, (4, 65), device="cuda")
    losses = {}
    for level in ("none", "inputs", "scan"):
        torch.manual_seed(0)
        config = LanguageModelConfig(vocab_size=50, mamba=MambaConfig(recompute=level))
        model = LanguageModel(config).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        values = []
        for _ in range(8):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                loss = model.loss(ids[:, :-1], ids[:, 1:])
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        losses[level] = values
    assert losses["none"][-1] < 0.8 * losses["none"][0]
    for level in ("inputs", "scan"):
        assert losses[level] == pytest.approx(losses["none"], rel=2e-2)

"""Models whose blocks hand their outputs on to the next norm, against those that add them at once.

On a CPU no model does that by itself: there the choice is forced, and the operator is plain torch.
"""

import contextlib

import pytest
import torch
from torch import Tensor, nn

from ssmlab.blocks import stream
from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.core.config import override
from ssmlab.mixers.s6_config import S6Config
from ssmlab.models import LanguageModel, LanguageModelConfig
from ssmlab.ops._cuda import launch_count

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]
MODELS = {
    "mamba": {},
    "hybrid": {"pattern": "M F A P"},
    "learned positions": {"pattern": "A F", "positions": "learned"},
    "h3 and hyena": {"pattern": "H Y"},
    "layer norm": {"norm": "layer"},
    "narrow stream": {"residual_in_fp32": False},
}
PRECISIONS = ["fp32", "autocast", "bf16"]
TOLERANCE = {"fp32": 2e-5, "autocast": 1e-2, "bf16": 3e-2}


@pytest.fixture
def choose(monkeypatch):
    """A function that turns fusing on or off."""
    works = stream.kernels_work

    def turn(on: bool) -> None:
        def answer(device, *dtypes) -> bool:
            return on and (device.type == "cpu" or works(device, *dtypes))

        monkeypatch.setattr(stream, "kernels_work", answer)

    turn(True)
    return turn


def build(device: str, precision: str = "fp32", **values) -> LanguageModel:
    torch.manual_seed(0)
    mamba = MambaConfig(ssm=S6Config(d_state=4))
    model = LanguageModel(
        override(
            LanguageModelConfig(vocab_size=61, d_model=32, n_layers=4, mamba=mamba),
            {"attention.n_heads": 2, "hyena.long_conv.l_max": 32, **values},
        )
    )
    with torch.no_grad():  # norms that do something
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) / 4)
    return model.to(device, torch.bfloat16 if precision == "bf16" else torch.float32)


def tokens(device: str, *shape: int) -> Tensor:
    return torch.randint(0, 61, shape, generator=torch.Generator().manual_seed(1)).to(device)


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager:
    return torch.autocast(device, torch.bfloat16, enabled=precision == "autocast")


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a.double() - b.double()).norm() <= tolerance * b.double().norm())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("device", DEVICES)
def test_the_same_numbers(device: str, kind: str, precision: str, choose) -> None:
    model = build(device, precision, **MODELS[kind])
    ids, targets = tokens(device, 2, 12), tokens(device, 2, 12).roll(1, 1)
    found = []
    for on in (True, False):
        choose(on)
        with autocast(device, precision):
            logits, states = model(ids, return_state=True)
            step, _ = model.step(ids[:, 0], states)
            prefilled, _ = model.prefill(ids)
            loss = model.loss(ids, targets)
        grads = torch.autograd.grad(loss, list(model.parameters()))
        found.append((logits, step, prefilled, loss, *grads))
    for name, a, b in zip(
        ("logits", "step", "prefill", "loss", *dict(model.named_parameters())), *found, strict=True
    ):
        assert a.dtype == b.dtype, name
        # A gradient that is a sum of what cancels, such as that of a bias before a norm, is noise.
        assert close(a, b, TOLERANCE[precision]) or float(b.norm()) < 1e-5, name


@pytest.mark.parametrize("device", DEVICES)
def test_packed_texts_and_steps_in_place(device: str, choose) -> None:
    model = build(device).requires_grad_(False)
    ids = tokens(device, 1, 12)
    offsets = torch.tensor([0, 5, 12], dtype=torch.int32, device=device)
    found = []
    for on in (True, False):
        choose(on)
        packed, states = model.prefill(ids, cu_seqlens=offsets)
        masked = model(ids.expand(2, -1), attention_mask=torch.ones(2, 12, device=device))
        found.append((packed, masked, model.step_(ids[0, :2], states)))
    for a, b in zip(*found, strict=True):
        assert close(a, b, 2e-5)


def counted(monkeypatch, model: LanguageModel) -> int:
    """Norms of a forward pass that took the operator."""
    calls = []
    operator = stream.add_rms_norm
    with monkeypatch.context() as patch:
        patch.setattr(stream, "add_rms_norm", lambda *args: calls.append(args) or operator(*args))
        model(tokens("cpu", 2, 6))
    return len(calls)


def test_what_somebody_watches_or_replaced_is_called(choose, monkeypatch) -> None:
    assert counted(monkeypatch, build("cpu")) == 5
    assert counted(monkeypatch, build("cpu", norm="layer")) == 0

    model = build("cpu")
    expected = model(tokens("cpu", 2, 6))
    seen = []
    model.layers[1].register_forward_hook(lambda module, args, output: seen.append(output[0]))
    model.layers[2].norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    assert counted(monkeypatch, model) == 3
    assert torch.equal(seen[0], seen[1])
    assert close(model(tokens("cpu", 2, 6)), expected, 1e-5)

    class Norm(type(model.norm_f)):
        pass

    model = build("cpu")
    model.norm_f = Norm(32)
    model.layers[0].forward = model.layers[0].forward
    assert counted(monkeypatch, model) == 3

    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert counted(monkeypatch, build("cpu")) == 0
    finally:
        handle.remove()


def test_the_input_is_narrow_only_where_a_linear_layer_would_make_it_so(choose) -> None:
    def types(model: LanguageModel) -> list[torch.dtype]:
        seen: list[torch.dtype] = []
        original = stream.add_rms_norm

        def spy(x, residual, weight, eps, dtype):
            seen.append(dtype)
            return original(x, residual, weight, eps, dtype)

        with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
            patch.setattr(stream, "add_rms_norm", spy)
            model(tokens("cpu", 2, 6))
        return seen

    narrow, wide = torch.bfloat16, torch.float32
    model = build("cpu")
    assert types(model) == [narrow] * 5
    model.layers[1].mixer.in_proj = nn.Sequential(nn.Dropout(0.1), model.layers[1].mixer.in_proj)
    model.layers[2].mixer.register_forward_pre_hook(lambda *_: None)
    model.layers[3].mixer.in_proj.register_forward_pre_hook(lambda *_: None)
    assert types(model) == [narrow, wide, wide, wide, narrow]
    assert types(build("cpu", "bf16")) == [narrow] * 5


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_a_break(device: str, choose) -> None:
    model = build(device, n_layers=2)
    ids = tokens(device, 2, 6)
    expected = torch.autograd.grad(model(ids).square().mean(), list(model.parameters()))
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(ids).square().mean(), list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("device", DEVICES[1:])
def test_a_model_on_a_gpu_fuses_by_itself(device: str) -> None:
    model = build(device).requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "kernels_work", lambda *_: False)
        model(tokens(device, 2, 6))
        before = launch_count()
        model(tokens(device, 2, 6))
        unfused = launch_count() - before
    before = launch_count()
    model(tokens(device, 2, 6))
    assert launch_count() - before == unfused + 5

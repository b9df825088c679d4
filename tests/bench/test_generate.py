"""What ``bench generate`` measures is what it says; the figures themselves are not tested."""

import pytest
import torch

from ssmlab.bench import generate
from ssmlab.core.errors import ConfigError
from ssmlab.models import LanguageModel, LanguageModelConfig


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(
        LanguageModelConfig(vocab_size=61, d_model=16, n_layers=2, pad_vocab_size_multiple=8)
    ).eval()


def test_rows_beside_transformers_on_the_same_weights(model):
    pytest.importorskip("transformers")
    other = generate.their_model(model)
    assert other.backbone.layers[0].mixer.in_proj.weight.data_ptr() == (
        model.layers[0].mixer.in_proj.weight.data_ptr()
    )
    ids = torch.arange(20)[None]
    assert (other(ids).logits[..., :61] - model(ids)).abs().max() < 1e-4
    rows = generate.bench_decode(model, [1, 3], repeats=2, reference=other, new_tokens=3)
    assert [row["batch"] for row in rows] == [1, 3]
    for row in rows:
        assert row["tokens/s"] == pytest.approx(row["batch"] / row["ms/step"] * 1e3)
        assert row["step/read"] == pytest.approx(row["ms/step"] / row["weights read ms"])
        assert row["speed-up"] > 0
    prefill = generate.bench_prefill(model, 24, repeats=2, reference=other)
    assert prefill["prefill/products"] == pytest.approx(prefill["ms"] / prefill["products ms"])


def test_the_products_are_those_of_a_prefill(model, monkeypatch):
    """The same shapes as F.linear sees in a real prefill."""
    real, seen = torch.nn.functional.linear, []

    def watch(x, weight, bias=None):
        seen.append((x.shape[-2:] if x.dim() > 1 else x.shape, tuple(weight.shape)))
        return real(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", watch)
    with torch.no_grad():
        model.prefill(torch.arange(12)[None])
        prefill, seen[:] = sorted(seen), []
        generate.matrix_products(model, 12)
    assert sorted(seen) == prefill


def test_unknown_shapes():
    with pytest.raises(ConfigError, match="expected one of tiny, 130m"):
        generate.random_model("7b", torch.device("cpu"), torch.float32)


def test_the_weights_of_a_shape_are_those_of_the_public_checkpoint():
    model = generate.random_model("130m", torch.device("cpu"), torch.bfloat16)
    assert model.embedding.weight.shape == (50280, 768)
    assert generate.weight_bytes(model) == 2 * 129_135_360


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_rows_with_and_without_a_graph():
    model = generate.random_model("tiny", torch.device("cuda"), torch.bfloat16)
    rows = generate.bench_decode(model, [1, 8], repeats=3)
    for row in rows:
        assert row["tokens/s"] == pytest.approx(row["batch"] / row["ms/step"] * 1e3)
        assert row["eager/step"] == pytest.approx(row["eager ms/step"] / row["ms/step"])
        assert 0 < row["weights read ms"] < row["ms/step"]

"""All three formats, both ways: every bit, every name, and what each format's own reader expects."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ssmlab.checkpoints import read_config
from ssmlab.core.errors import CheckpointError
from ssmlab.models import LanguageModel

from .conftest import tokens

FORMATS = ("ssmlab", "mamba_ssm", "transformers")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("format", FORMATS)
def test_every_bit_comes_back(format, tied, ours, tmp_path):
    model = ours(tie_embeddings=tied, pad_vocab_size_multiple=8)
    folder = model.save_pretrained(tmp_path / "m", format)
    again = LanguageModel.from_pretrained(folder)
    assert again.config == model.config == read_config(folder)
    for (name, p), (other, q) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(p, q)
        assert getattr(p, "_no_weight_decay", False) == getattr(q, "_no_weight_decay", False)
    assert (again.lm_head.weight is again.embedding.weight) == tied
    assert not again.training


def test_one_format_to_the_next_and_back(ours, tmp_path):
    model = ours()
    folder = model.save_pretrained(tmp_path / "0", "ssmlab")
    for index, format in enumerate((*FORMATS, *reversed(FORMATS)), start=1):
        folder = LanguageModel.from_pretrained(folder).save_pretrained(
            tmp_path / str(index), format
        )
    assert torch.equal(LanguageModel.from_pretrained(folder)(tokens(1, 5)), model(tokens(1, 5)))


def test_mamba_ssm_folders_are_what_that_package_reads(ours, tmp_path):
    model = ours(pad_vocab_size_multiple=8)
    folder = model.save_pretrained(tmp_path / "m", "mamba_ssm")
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "d_model": 16,
        "n_layer": 2,
        "vocab_size": 53,
        "ssm_cfg": {"d_state": 4, "dt_rank": 3},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
        "tie_embeddings": True,
    }
    stored = torch.load(folder / "pytorch_model.bin", weights_only=True)
    assert stored["backbone.embedding.weight"].shape == (56, 16)
    assert stored["lm_head.weight"].data_ptr() == stored["backbone.embedding.weight"].data_ptr()
    assert stored["backbone.layers.1.mixer.A_log"].shape == (32, 4)
    assert set(stored) == {
        "backbone.embedding.weight",
        "backbone.norm_f.weight",
        "lm_head.weight",
        *(
            f"backbone.layers.{i}.{name}"
            for i in range(2)
            for name in (
                "norm.weight",
                *(f"mixer.{part}.weight" for part in ("in_proj", "conv1d", "x_proj", "dt_proj")),
                "mixer.out_proj.weight",
                "mixer.conv1d.bias",
                "mixer.dt_proj.bias",
                "mixer.A_log",
                "mixer.D",
            )
        ),
    }


def test_the_published_config_of_130m_is_read(tmp_path):
    # The keys of state-spaces/mamba-130m; tie_embeddings came later and means true when absent.
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "d_model": 768,
                "n_layer": 24,
                "vocab_size": 50277,
                "ssm_cfg": {},
                "rms_norm": True,
                "residual_in_fp32": True,
                "fused_add_norm": True,
                "pad_vocab_size_multiple": 8,
            }
        )
    )
    config = read_config(tmp_path)
    assert config.padded_vocab_size == 50280
    with torch.device("meta"):
        model = LanguageModel(config)
    assert sum(p.numel() for p in model.parameters()) == 129_135_360
    assert model.layers[0].mixer.ssm.dt_proj.weight.shape == (1536, 48)


def test_large_models_are_cut_into_shards(ours, tmp_path):
    model = ours()
    folder = model.save_pretrained(tmp_path / "m", "transformers", max_shard_size=6000)
    shards = sorted(folder.glob("model-*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(shards) > 2
    assert {s.name for s in shards} == set(index["weight_map"].values())
    assert set(index["weight_map"]) == {name for s in shards for name in load_file(s)}
    assert torch.equal(LanguageModel.from_pretrained(folder)(tokens(1, 5)), model(tokens(1, 5)))


def test_types_are_kept_or_changed_as_asked(ours, tmp_path):
    folder = ours().bfloat16().save_pretrained(tmp_path / "m", "transformers")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert LanguageModel.from_pretrained(folder).embedding.weight.dtype == torch.float32
    kept = LanguageModel.from_pretrained(folder, dtype="auto")
    assert {p.dtype for p in kept.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pattern": "M F"}, "block 1 is GatedMLP"),
        ({"norm_eps": 1e-6}, "norm_eps is 1e-06"),
        ({"ssm.selective_B": False}, "selective_B=False"),
        ({"ssm.selective_delta": False}, "selective_delta=False"),
        ({"ssm.a_init": "s4d-lin"}, "complex A"),
        ({"ssm.selective_A": True}, "selective_A=True"),
    ],
)
def test_what_a_public_format_cannot_say_is_refused(change, said, ours, tmp_path):
    from ssmlab.core.config import override

    keys = {key.replace("ssm.", "mamba.ssm."): value for key, value in change.items()}
    model = LanguageModel(override(ours().config, keys))
    with pytest.raises(CheckpointError, match=rf"{said}.*use format='ssmlab'"):
        model.save_pretrained(tmp_path / "m", "mamba_ssm")
    assert not (tmp_path / "m").exists()
    again = LanguageModel.from_pretrained(model.save_pretrained(tmp_path / "m"))
    assert torch.equal(again(tokens(1, 4)), model(tokens(1, 4)))

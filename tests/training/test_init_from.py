"""Training that goes on from a checkpoint."""

import pytest
import torch

from ssmlab.checkpoints import load_tokenizer
from ssmlab.cli.train import build_config
from ssmlab.core.config import override, to_dict
from ssmlab.core.errors import CheckpointError, ConfigError
from ssmlab.data.config import TextDataConfig
from ssmlab.models import LanguageModel
from ssmlab.training import run_trial
from ssmlab.training.trainer import Trainer


@pytest.fixture
def base(make_config, text, tmp_path):
    config = make_config(save_model=True, steps=6)
    run_trial(config, tmp_path / "base", data=text)
    return tmp_path / "base"


def from_base(make_config, base, **training):
    model = to_dict(LanguageModel.from_pretrained(base).config)
    return override(
        make_config(**training),
        {"init_from": str(base), "model": model},
    )


def test_the_first_step_starts_at_the_checkpoints_weights(make_config, base, text):
    trainer = Trainer(from_base(make_config, base), text, torch.device("cpu"))
    start = LanguageModel.from_pretrained(base)
    for (name, p), q in zip(trainer.model.named_parameters(), start.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert trainer.model.training
    groups = trainer.optimizer.param_groups
    assert {g["weight_decay"] for g in groups} == {0.0, 0.1}  # the marks came along


@pytest.mark.parametrize("format", ["mamba_ssm", "transformers"])
def test_going_on_from_a_public_format_equals_going_on_from_our_own(
    format, make_config, base, text, tmp_path
):
    LanguageModel.from_pretrained(base).save_pretrained(tmp_path / format, format)
    losses = [
        run_trial(from_base(make_config, folder), tmp_path / name, data=text).val_loss
        for folder, name in ((base, "a"), (tmp_path / format, "b"))
    ]
    assert losses[0] == losses[1]
    fresh = run_trial(make_config(), tmp_path / "c", data=text).val_loss
    assert losses[0] < fresh


def test_a_stopped_run_goes_on_without_the_checkpoint_it_began_with(
    make_config, base, text, tmp_path
):
    from ssmlab.core.errors import Interrupted

    config = from_base(make_config, base)
    whole = run_trial(config, tmp_path / "whole", data=text)
    steps = iter([False] * 5 + [True])
    with pytest.raises(Interrupted):
        run_trial(config, tmp_path / "cut", data=text, should_stop=lambda: next(steps))
    assert run_trial(config, tmp_path / "cut", data=text).val_loss == whole.val_loss


def test_another_model_is_refused_before_any_step(make_config, base, text, tmp_path):
    config = override(from_base(make_config, base), {"model.n_layers": 1})
    with pytest.raises(CheckpointError, match="is not that of the config"):
        run_trial(config, tmp_path / "x", data=text)


def test_the_trained_folder_is_a_whole_checkpoint(make_config, text_folder, tmp_path):
    data = TextDataConfig(
        paths=(str(text_folder),), tokenizer="bpe:300", cache_dir=str(tmp_path / "cache")
    )
    config = override(make_config(save_model=True, steps=3), {"data": to_dict(data)})
    run_trial(config, tmp_path / "run")
    model, words = LanguageModel.from_pretrained(tmp_path / "run"), load_tokenizer(tmp_path / "run")
    assert model.config.vocab_size == words.vocab_size
    made = model.generate("state space", tokenizer=words, max_new_tokens=4)
    assert made.texts is not None

    # And with no word about it, going on takes its model and its tokenizer.
    again = build_config([str(text_folder)], str(tmp_path / "run"), None, 5, 0, [])
    assert again.model == model.config
    assert again.data.tokenizer == str(tmp_path / "run" / "tokenizer.json")
    assert again.training.lr == 2e-4


def test_options_that_contradict_each_other(base):
    with pytest.raises(ConfigError, match="the model is the checkpoint's"):
        build_config(None, str(base), None, None, 0, ["model.d_model=32"])
    with pytest.raises(ConfigError, match=r"--steps and --set training\.steps"):
        build_config(None, None, None, 5, 0, ["training.steps=3"])
    assert build_config(None, str(base), None, None, 0, ["training.lr=1e-3"]).training.lr == 1e-3
    assert build_config(None, str(base), None, None, 0, []).data.tokenizer == "bytes"

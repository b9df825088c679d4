import dataclasses
import errno
import json
import math

import pytest
import torch
from safetensors.torch import load_file

from ssmlab.core.config import from_dict, override, to_dict
from ssmlab.core.errors import CheckpointError, ConfigError, DataError, StorageError
from ssmlab.training import TrialConfig, run_trial
from ssmlab.training import checkpoint as checkpoint_module
from ssmlab.training.checkpoint import latest_step, list_checkpoints
from ssmlab.training.environment import git_revision
from ssmlab.training.metrics import read_metrics
from ssmlab.training.result import is_done, read_result
from ssmlab.training.trainer import Trainer

CPU = torch.device("cpu")


def test_a_trial_learns_and_leaves_a_whole_folder(tmp_path, make_config, text):
    events = []
    config = make_config(steps=40, eval_every=15, lr=1e-2)
    result = run_trial(config, tmp_path, on_event=events.append, data=text)

    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "DONE",
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "result.json",
    ]
    assert result == read_result(tmp_path)
    assert (result.status, result.reason) == ("ok", None)
    assert (result.steps, result.tokens) == (40, 40 * 4 * 16)
    assert result.val_loss < math.log(256) - 1
    assert result.val_ppl == pytest.approx(math.exp(result.val_loss))
    assert result.val_bits_per_byte == pytest.approx(
        result.val_loss / math.log(2) / text.bytes_per_token
    )
    assert result.tokens_per_second > 0
    assert result.peak_memory_bytes > 10_000_000

    lines = read_metrics(tmp_path)
    train = [line for line in lines if line["split"] == "train"]
    val = [line for line in lines if line["split"] == "val"]
    assert [line["step"] for line in train] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert [line["step"] for line in val] == [15, 30, 40]
    assert val[-1]["loss"] == result.val_loss
    assert train[-1]["loss"] == result.train_loss < train[0]["loss"]
    assert train[-1]["lr"] == pytest.approx(1e-5)
    assert train[0]["tokens"] == 5 * 4 * 16
    assert set(train[0]) == {
        *("step", "tokens", "split", "loss", "lr", "grad_norm", "tokens_per_second", "seconds")
    }
    assert set(val[0]) == {"step", "tokens", "split", "loss", "ppl", "seconds"}

    kinds = [event.kind for event in events]
    assert (kinds.count("train"), kinds.count("val"), kinds[-1]) == (8, 3, "done")
    assert events[-1].loss == result.val_loss
    assert all(event.total_steps == 40 for event in events)


def test_the_resolved_config_is_written_and_reads_back(tmp_path, make_config, text):
    run_trial(make_config(steps=1), tmp_path, data=text)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model"]["vocab_size"] == text.vocab_size
    assert to_dict(from_dict(TrialConfig, stored)) == stored
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["device"] == "cpu"
    assert environment["data"]["key"] == text.key
    assert "git_revision" in environment


def test_a_finished_folder_answers_at_once(tmp_path, make_config, text, monkeypatch):
    config = make_config(steps=2)
    result = run_trial(config, tmp_path, data=text)
    (tmp_path / "checkpoint-000000001.safetensors").write_bytes(b"left by a kill after DONE")
    monkeypatch.setattr("ssmlab.data.text.prepare_text", None)
    monkeypatch.setattr("ssmlab.training.run.Trainer", None)
    assert run_trial(config, tmp_path) == result
    assert list_checkpoints(tmp_path) == []


def test_another_config_is_refused_with_the_keys_that_differ(tmp_path, make_config, text):
    config = make_config(steps=2)
    run_trial(config, tmp_path, data=text)
    with pytest.raises(CheckpointError, match=r"training\.lr \(there 0\.003, now 0\.01\)"):
        run_trial(make_config(steps=2, lr=1e-2), tmp_path, data=text)
    with pytest.raises(CheckpointError, match="seed"):
        run_trial(dataclasses.replace(config, seed=1), tmp_path, data=text)


def test_same_seed_same_result_another_seed_another(tmp_path, make_config, text):
    config = make_config(steps=3)
    losses = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(losses) + 100)  # what the caller did before does not matter
        trial = dataclasses.replace(config, seed=seed)
        losses.append(run_trial(trial, tmp_path / name, data=text).val_loss)
    assert losses[0] == losses[1] != losses[2]


def test_text_is_prepared_from_the_config_if_not_given(tmp_path, make_config, text):
    config = make_config(steps=2)
    a = run_trial(config, tmp_path / "a")
    b = run_trial(config, tmp_path / "b", data=text)
    assert a.val_loss == b.val_loss


@pytest.mark.parametrize("pieces", [2, 4])
def test_accumulation_equals_one_large_batch(make_config, text, pieces):
    whole = Trainer(_resolved(make_config(), text), text, CPU)
    parts = Trainer(_resolved(make_config(grad_accumulation=pieces), text), text, CPU)
    loss, norm = whole.step(0)
    loss_parts, norm_parts = parts.step(0)
    torch.testing.assert_close(loss_parts, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm_parts, norm, rtol=1e-5, atol=0)
    for (name, a), b in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        assert a.grad is not None
        assert a.grad.abs().max() > 0, name
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_evaluation_weighs_every_token_the_same(make_config, text):
    """The last batch of windows is smaller; a mean of batch means would differ."""
    trainer = Trainer(_resolved(make_config(batch_size=4), text), text, CPU)
    one = Trainer(_resolved(make_config(batch_size=1), text), text, CPU)
    few = 16 * 7
    for each in (trainer, one):
        each.config = override(each.config, {"training.eval_tokens": few})
    assert trainer.evaluate() == pytest.approx(one.evaluate(), rel=1e-6)


def test_gradient_norm_is_clipped(make_config, text):
    trainer = Trainer(_resolved(make_config(grad_clip=1e-3), text), text, CPU)
    free = Trainer(_resolved(make_config(grad_clip=0.0), text), text, CPU)
    _, norm = trainer.step(0)
    _, free_norm = free.step(0)
    assert norm.item() == pytest.approx(free_norm.item(), rel=1e-5)
    assert norm > 1e-2
    clipped = torch.nn.utils.get_total_norm([p.grad for p in trainer.parameters])
    assert clipped.item() == pytest.approx(1e-3, rel=1e-2)
    unclipped = torch.nn.utils.get_total_norm([p.grad for p in free.parameters])
    assert unclipped.item() == pytest.approx(norm.item(), rel=1e-5)


def test_bf16_keeps_fp32_parameters_and_comes_near_fp32(tmp_path, make_config, text):
    half = _resolved(make_config(steps=3, precision="bf16"), text)
    trainer = Trainer(half, text, CPU)
    trainer.step(0)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in trainer.parameters)
    a = run_trial(half, tmp_path / "bf16", data=text)
    b = run_trial(make_config(steps=3, precision="fp32"), tmp_path / "fp32", data=text)
    assert a.val_loss != b.val_loss
    assert a.val_loss == pytest.approx(b.val_loss, rel=0.02)


def test_a_loss_that_is_not_finite_ends_the_trial_with_a_reason(tmp_path, make_config, text):
    events = []
    config = make_config(lr=1e38, warmup_fraction=0.0, grad_clip=0.0, save_model=True)
    result = run_trial(config, tmp_path, on_event=events.append, data=text)
    assert result.status == "diverged"
    assert result.val_loss is result.val_ppl is result.val_bits_per_byte is None
    assert result.steps < 12
    assert f"at step {result.steps} of 12" in result.reason
    assert "nan" in result.reason or "inf" in result.reason
    assert is_done(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert "diverged" in events[-1].message
    json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    # It counts as finished: asking again does not train again.
    assert run_trial(config, tmp_path, data=text) == result


@pytest.mark.parametrize("log_every", [1, 5])
def test_the_first_bad_gradient_is_named(tmp_path, make_config, text, monkeypatch, log_every):
    """Finite losses with an infinite gradient: seen as well, at the step it came."""
    step = Trainer.step

    def bad(self, number):
        loss, norm = step(self, number)
        return loss, norm * math.inf if number >= 3 else norm

    monkeypatch.setattr(Trainer, "step", bad)
    result = run_trial(make_config(log_every=log_every), tmp_path, data=text)
    assert result.reason == "gradient norm inf at step 4 of 12"
    assert (result.status, result.steps) == ("diverged", 4)


def test_an_infinite_validation_loss_is_diverged_too(tmp_path, make_config, text, monkeypatch):
    monkeypatch.setattr(Trainer, "evaluate", lambda self: math.inf)
    result = run_trial(make_config(steps=2), tmp_path, data=text)
    assert (result.status, result.val_loss) == ("diverged", None)
    assert "validation loss" in result.reason
    assert read_metrics(tmp_path)[-1]["loss"] is None


def test_vocabulary_larger_than_the_data_s_is_kept_and_smaller_is_an_error(
    tmp_path, make_config, text
):
    larger = make_config({"model.vocab_size": text.vocab_size + 8}, steps=1)
    run_trial(larger, tmp_path / "larger", data=text)
    stored = json.loads((tmp_path / "larger" / "config.json").read_text())
    assert stored["model"]["vocab_size"] == text.vocab_size + 8
    smaller = make_config({"model.vocab_size": text.vocab_size - 1})
    with pytest.raises(ConfigError, match=r"model\.vocab_size is .*set it to 0"):
        run_trial(smaller, tmp_path / "smaller", data=text)
    assert not (tmp_path / "smaller" / "config.json").exists()


def test_held_out_text_without_a_window_is_an_error(tmp_path, make_config, text):
    with pytest.raises(DataError, match=r"."):
        run_trial(make_config(steps=1, eval_tokens=3), tmp_path, data=text)
    assert not is_done(tmp_path)


def test_the_weights_are_kept_on_request(tmp_path, make_config, text):
    config = make_config(steps=3, save_model=True)
    result = run_trial(config, tmp_path, data=text)
    weights = load_file(tmp_path / "model.safetensors")
    assert sum(w.numel() for w in weights.values()) == result.n_params
    trainer = Trainer(_resolved(config, text), text, CPU)
    trainer_weights = trainer.weights()
    assert weights.keys() == trainer_weights.keys()
    for name, weight in trainer_weights.items():
        weight.copy_(weights[name])
    assert trainer.evaluate() == result.val_loss


def test_checkpoints_by_time_and_by_steps(tmp_path, make_config, text):
    def saved(folder, **training):
        events = []
        run_trial(make_config(**training), folder, on_event=events.append, data=text)
        return [event.step for event in events if event.kind == "checkpoint"]

    assert saved(tmp_path / "steps", checkpoint_every_steps=5) == [5, 10]
    # The least time there is: as often as the share of time given to saving allows.
    assert 1 <= len(saved(tmp_path / "time", checkpoint_every_seconds=1e-9)) < 12
    assert saved(tmp_path / "none") == []


def test_a_full_disk_stops_the_trial_and_leaves_the_last_checkpoint(
    tmp_path, make_config, text, monkeypatch
):
    save_file = checkpoint_module.save_file

    def full(tensors, path, metadata):
        if list_checkpoints(tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, metadata)

    config = make_config(checkpoint_every_steps=4)
    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(StorageError, match="disk is full"):
        run_trial(config, tmp_path, data=text)
    assert latest_step(tmp_path) == 4
    assert not list(tmp_path.glob(".*.tmp"))
    monkeypatch.setattr(checkpoint_module, "save_file", save_file)
    resumed = run_trial(config, tmp_path, data=text)
    whole = run_trial(config, tmp_path / "whole", data=text)
    assert resumed.val_loss == whole.val_loss


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path, make_config, text):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        run_trial(make_config(), tmp_path / "file", data=text)


def test_no_repository_is_no_revision(tmp_path, monkeypatch):
    assert git_revision(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert git_revision() is None


def _resolved(config, text):
    return override(config, {"model.vocab_size": text.vocab_size})

"""Spoilt folders: one exact error each, nothing run, nothing written."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssmlab.checkpoints import from_pretrained
from ssmlab.core.errors import CheckpointError, StorageError

WEIGHTS = "model.safetensors"


def edit_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_weights(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def refused(folder: Path | str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        from_pretrained(folder)


def test_missing_and_unexpected_names(saved):
    def change(tensors):
        del tensors["backbone.norm_f.weight"]
        tensors["backbone.layers.2.mixer.D"] = torch.ones(3)

    edit_weights(saved, change)
    refused(saved, r"missing 'backbone.norm_f.weight'; unexpected 'backbone.layers.2.mixer.D'")


def test_wrong_shapes_name_both(saved):
    edit_config(saved, state_size=5)
    refused(saved, r"A_log is \(32, 4\), the config needs \(32, 5\)")


def test_another_vocabulary_is_explained(saved):
    edit_config(saved, vocab_size=60)
    refused(saved, "embedding has 53 rows; a vocabulary of 60 padded to a multiple of 1 has 60")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(bad, saved):
    def change(tensors):
        tensors["backbone.layers.1.mixer.D"][3] = bad

    edit_weights(saved, change)
    refused(saved, "1 of 32 numbers of backbone.layers.1.mixer.D are NaN or infinite")


def test_a_tied_config_with_another_head(saved):
    def change(tensors):
        tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"] + 1

    edit_weights(saved, change)
    refused(saved, "ties the head to the embedding, but lm_head.weight holds other numbers")


def test_a_stored_copy_of_a_tied_head_is_fine(saved):
    def change(tensors):
        tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"].clone()

    edit_weights(saved, change)
    from_pretrained(saved)


def test_whole_numbers_are_not_weights(saved):
    def change(tensors):
        tensors["backbone.norm_f.weight"] = torch.ones(16, dtype=torch.int8)

    edit_weights(saved, change)
    refused(saved, r"norm_f.weight is torch.int8, expected floating-point.*quantised")


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99])
def test_cut_off_safetensors(keep, saved):
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(data[: int(len(data) * keep) if keep < 1 else int(keep)])
    refused(saved, "model.safetensors is cut off or damaged")


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.95])
def test_cut_off_bin(keep, ours, tmp_path):
    folder = ours().save_pretrained(tmp_path / "m", "mamba_ssm")
    path = folder / "pytorch_model.bin"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if keep < 1 else int(keep)])
    refused(folder, r"pytorch_model.bin (is|was) .*(cut off|damaged)")


class Payload:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch", "pickle", "nested"])
def test_a_pickle_with_code_is_refused_and_not_run(how, ours, tmp_path):
    folder = ours().save_pretrained(tmp_path / "m", "mamba_ssm")
    path, mark = folder / "pytorch_model.bin", tmp_path / "it-ran"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"w": Payload(mark)}))
    else:
        tensors = torch.load(path, weights_only=True)
        tensors["x"] = [Payload(mark)] if how == "nested" else Payload(mark)
        torch.save(tensors, path)
    refused(folder, "nothing of it was run")
    assert not mark.exists()
    # The payload is a real one: an unguarded reader would run it.
    if how == "torch":
        torch.load(path, weights_only=False)
        assert mark.exists()


def test_a_training_checkpoint_is_not_a_state_dict(ours, tmp_path):
    folder = ours().save_pretrained(tmp_path / "m", "mamba_ssm")
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({"model": tensors, "step": 3}, folder / "pytorch_model.bin")
    refused(folder, "not tensors: 'model', 'step'")


def test_bin_files_older_than_zip_are_read(ours, tmp_path):
    model = ours()
    folder = model.save_pretrained(tmp_path / "m", "mamba_ssm")
    path = folder / "pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    again = from_pretrained(folder)
    assert torch.equal(again.norm_f.weight, model.norm_f.weight)


def test_an_index_cannot_point_outside(saved, tmp_path):
    (saved / WEIGHTS).rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"x": "../elsewhere.safetensors"}}
    (saved / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    refused(saved, r"names '\.\./elsewhere.safetensors': expected a file of the same folder")


def test_a_missing_shard(saved):
    (saved / WEIGHTS).unlink()
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors"}}
    (saved / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    refused(saved, "model-00001-of-00002.safetensors is missing")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "falcon_mamba"}, "model_type is 'falcon_mamba'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"intermediate_size": 99}, "intermediate_size is 99, but expand x hidden_size is 2 x 16"),
        ({"num_hidden_layers": 0}, "n_layers: expected a whole number >= 1, got 0"),
        ({"num_hidden_layers": "two"}, "n_layers.*'two'"),
        ({"use_bias": "yes"}, "bias.*expected bool, got 'yes'"),
        ({"time_step_rank": 99}, "dt_rank=99 is above the 32 channels"),
    ],
)
def test_configs_that_cannot_be(values, said, saved):
    edit_config(saved, **values)
    refused(saved, said)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n_layers": 3}, "unknown key 'n_layers': did you mean 'n_layer'"),
        ({"ssm_cfg": {"d_stat": 3}}, r"did you mean 'ssm_cfg\.d_state'"),
        ({"ssm_cfg": {"layer": "Mamba2"}}, "ssm_cfg.layer is 'Mamba2'"),
        ({"rms_norm": False}, "rms_norm is False"),
        ({"attn_layer_idx": [1]}, "attn_layer_idx"),
        ({"vocab_size": 99}, r"embedding.weight is \(53, 16\)"),
    ],
)
def test_mamba_ssm_configs_that_cannot_be(values, said, ours, tmp_path):
    folder = ours().save_pretrained(tmp_path / "m", "mamba_ssm")
    edit_config(folder, **values)
    refused(folder, said)


def test_keys_not_known_are_said(saved):
    edit_config(saved, gated_twice=True)
    with pytest.warns(UserWarning, match="ignored: 'gated_twice'"):
        from_pretrained(saved)


def test_folders_that_are_none(tmp_path):
    refused(tmp_path / "nowhere", "there is no folder")
    refused(tmp_path, "there is no config.json")
    (tmp_path / "config.json").write_text('{"a": 1}')
    refused(tmp_path, "of no format known here.*'a'")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "cannot read .*config.json")
    refused(tmp_path / "config.json", "is a file; give the folder")
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    refused(tmp_path, "has no weights: expected model.safetensors, pytorch_model.bin")


def test_saving_where_something_is(ours, saved, tmp_path):
    before = (saved / WEIGHTS).read_bytes()
    other = ours(n_layers=1)
    with pytest.raises(CheckpointError, match="is there already"):
        other.save_pretrained(saved)
    assert (saved / WEIGHTS).read_bytes() == before
    other.save_pretrained(saved, overwrite=True)
    assert from_pretrained(saved).config.n_layers == 1
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("years")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        other.save_pretrained(precious, overwrite=True)
    assert (precious / "chapter.txt").read_text() == "years"


def test_a_failed_write_leaves_nothing(ours, saved, tmp_path, monkeypatch):
    before = sorted(p.name for p in tmp_path.iterdir())

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssmlab.checkpoints.save.save_file", full)
    for path, overwrite in ((tmp_path / "new", False), (saved, True)):
        with pytest.raises(StorageError, match="disk is full"):
            ours().save_pretrained(path, overwrite=overwrite)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    from_pretrained(saved)


def test_an_unwritable_place(ours, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises((StorageError, CheckpointError), match="file"):
        ours().save_pretrained(tmp_path / "file" / "m")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_hub_name_without_a_network(monkeypatch):
    import huggingface_hub

    def unreachable(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    refused("state-spaces/mamba-130m", "hub could not be reached.*give a local folder")


@pytest.mark.parametrize("pickled", [False, True])
def test_a_hub_name_goes_through_the_hub_library(pickled, ours, tmp_path, monkeypatch):
    import huggingface_hub

    folder = ours().save_pretrained(tmp_path / "m", "mamba_ssm" if pickled else "transformers")
    asked = []

    def fetch(repo_id, revision, allow_patterns):
        asked.append((repo_id, revision, any(p.endswith(".bin") for p in allow_patterns)))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    from_pretrained("someone/mamba", revision="v2")
    # Pickles are asked for only where there are no safetensors.
    assert asked == [("someone/mamba", "v2", wanted) for wanted in [False, True][: 1 + pickled]]


def test_a_folder_wins_over_a_hub_name(saved, monkeypatch):
    (saved.parent / "someone").mkdir()
    shutil.copytree(saved, saved.parent / "someone" / "mamba")
    monkeypatch.chdir(saved.parent)
    from_pretrained("someone/mamba")

"""generate, eval, train and convert as a user meets them."""

import json

import pytest
import torch

from ssmlab.cli import main
from ssmlab.data.tokenize import ByteTokenizer
from ssmlab.models import LanguageModel, LanguageModelConfig


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSMLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(vocab_size=256, d_model=16, n_layers=1))
    return str(model.save_pretrained(tmp_path / "model", tokenizer=ByteTokenizer()))


def said(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_generate_streams_prompt_and_text(folder, capsys):
    assert main(["generate", "-m", folder, "-p", "hello", "-n", "5", "--stop-token", "3"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("hello")
    options = ["generate", "-m", folder, "-p", "hello", "-n", "5", "--stop-token", "3", "--json"]
    assert main(options) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert "hello" + row["text"] + "\n" == shown
    assert len(row["tokens"]) == len(row["logprobs"])


def test_generate_several_and_standard_input(folder, capsys, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert main(["generate", "-m", folder, "-p", "one", "-p", "-", "-n", "3"]) == 0
    shown = capsys.readouterr().out
    assert "one" in shown
    assert "from a pipe" in shown


def test_a_saved_state_goes_on(folder, tmp_path, capsys):
    draw = ["--temperature", "1", "--seed", "4", "--json", "-m", folder]
    main(["generate", *draw, "-p", "ab", "-n", "9"])
    (whole,) = json.loads(capsys.readouterr().out)
    state = str(tmp_path / "state")
    main(["generate", *draw, "-p", "ab", "-n", "4", "--save-state", state])
    (first,) = json.loads(capsys.readouterr().out)
    main(["generate", *draw, "-n", "5", "--load-state", state])
    (second,) = json.loads(capsys.readouterr().out)
    assert first["tokens"] + second["tokens"] == whole["tokens"]


def test_convert_there_and_back(folder, tmp_path, capsys):
    for to, source in (("transformers", folder), ("mamba_ssm", tmp_path / "transformers")):
        out = str(tmp_path / to)
        assert main(["convert", "-m", str(source), "--to", to, "--out", out]) == 0
    first, last = LanguageModel.from_pretrained(folder), LanguageModel.from_pretrained(out)
    ids = torch.arange(9)[None]
    assert torch.equal(first(ids), last(ids))
    assert main(["convert", "-m", folder, "--to", "mamba_ssm", "--out", out]) == 1
    assert "is there already" in said(capsys)
    assert main(["convert", "-m", folder, "--to", "mamba_ssm", "--out", out, "--overwrite"]) == 0


def test_eval_tasks_and_text(folder, tmp_path, capsys):
    task = tmp_path / "words.jsonl"
    task.write_text("\n".join(json.dumps({"text": f"some words {i}"}) for i in range(5)))
    text = tmp_path / "text.txt"
    text.write_text("some text to measure")
    out = tmp_path / "out.json"
    given = [
        "eval",
        "-m",
        folder,
        "--tasks",
        f"lambada={task}",
        "--text",
        str(text),
        "--limit",
        "3",
    ]
    assert main([*given, "--json", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"][0]["task"] == "lambada"
    assert found["tasks"][0]["n"] == 3
    assert found["text"]["tokens"] == 20
    assert len(json.loads(out.read_text())["questions"]["lambada"]) == 3
    assert main(given) == 0
    assert "lambada" in capsys.readouterr().out


def test_train_then_use(tmp_path, capsys):
    text = tmp_path / "text"
    text.mkdir()
    for index in range(12):
        (text / f"{index}.txt").write_text(f"document {index}: " + "so it goes. " * 40)
    tiny = ["--set", "training.batch_size=2", "--set", "training.seq_len=16", "--steps", "4"]
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    small = ["--set", "model.d_model=16", "--set", "model.n_layers=1"]
    assert main(["train", "--data", str(text), "--out", first, *tiny, *small]) == 0
    assert "validation perplexity" in capsys.readouterr().out
    tune = ["train", "--init-from", first, "--data", str(text), "--out", second, *tiny, "--json"]
    assert main(tune) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ok"
    assert json.loads((tmp_path / "second" / "config.json").read_text())["init_from"] == first
    assert main(["generate", "-m", second, "-p", "so", "-n", "3"]) == 0
    done = (tmp_path / "second" / "result.json").stat().st_mtime_ns
    assert main(tune) == 0  # finished: nothing is trained again
    assert (tmp_path / "second" / "result.json").stat().st_mtime_ns == done


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["generate", "-m", "{m}"], "no prompt was given"),
        (["generate", "-m", "{m}", "-p", ""], "prompt 0 is empty"),
        (["generate", "-m", "{m}", "-p", "x", "--stop-token", "<none>"], "is unknown"),
        (["generate", "-m", "{m}", "-p", "x", "--temperature", "-1"], "temperature"),
        (["generate", "-m", "{m}", "-p", "x", "--dtype", "int8"], "float32, bfloat16"),
        (["generate", "-m", "{m}", "-p", "x", "--device", "abacus"], "abacus"),
        (["generate", "-m", "{m}", "-p", "x", "--load-state", "{m}/none"], "not a session"),
        (["generate", "-m", "./nowhere", "-p", "x"], "no folder"),
        (["eval", "-m", "{m}"], "nothing to measure"),
        (["eval", "-m", "{m}", "--tasks", "none.jsonl"], "cannot read the task"),
        (["eval", "-m", "{m}", "--text", "none.txt"], "none.txt"),
        (["convert", "-m", "{m}", "--to", "gguf", "--out", "x"], "expected one of ssmlab"),
        (["train", "--init-from", "./nowhere", "--out", "x"], "no folder"),
        (["train", "--data", "none.txt", "--out", "x"], "none.txt"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments, expected, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main([a.replace("{m}", folder) for a in arguments]) == 1
    shown = said(capsys)
    assert expected in shown
    assert "Traceback" not in shown
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == before

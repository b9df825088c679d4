"""The command line as a user meets it: exit codes, one clear line per error, JSON that parses."""

import json

import pytest

from ssmlab.cli import main

TINY = [
    "--set", "model.d_model=16", "--set", "model.n_layers=1", "--set", "model.mamba.ssm.d_state=2",
    "--set", "training.steps=4", "--set", "training.batch_size=2", "--set", "training.seq_len=16",
    "--set", "training.eval_tokens=64", "--set", "training.warmup_fraction=0.25",
]  # fmt: skip


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for index in range(12):
        (folder / f"{index}.txt").write_text(f"document {index}: " + "so it goes. " * 40)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSMLAB_CACHE", str(tmp_path / "cache"))


def run_tiny(text, out, *more):
    return main(
        [
            *("study", "run", "table7", "--seeds", "1"),
            *("--data", str(text), "--out", str(out)),
            *TINY,
            *more,
        ]
    )


def test_help_reads_as_a_tour(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("doctor", "study run", "study report", "params", "bench scan"):
        assert command in shown


def test_study_list_as_json(capsys):
    assert main(["study", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"table7", "table8", "table9", "table10"} <= {study["name"] for study in listed}


def test_params_table9_as_json_equals_the_paper(capsys):
    assert main(["params", "table9", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 8
    assert all(row["parameters_m"] == row["paper_m"] for row in rows)


def test_doctor_names_the_backends(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["backends"]["reference"] is None
    assert report["versions"]["torch"]


@pytest.mark.slow
def test_run_status_report_and_run_again(text, tmp_path, capsys):
    out = tmp_path / "study"
    assert run_tiny(text, out) == 0
    assert "report.html" in capsys.readouterr().out
    assert (out / "report.html").exists()

    assert main(["study", "status", str(out), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["counts"] == {"done": 5}

    before = sorted((p, p.stat().st_mtime_ns) for p in out.glob("trials/*/result.json"))
    assert run_tiny(text, out, "--json") == 0
    json.loads(capsys.readouterr().out)
    assert before == sorted((p, p.stat().st_mtime_ns) for p in out.glob("trials/*/result.json"))

    assert main(["study", "report", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["html"].endswith("report.html")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study", "run", "tabel7"], "table7"),
        (["study", "run", "table7", "--scale", "quik"], "quick"),
        (["study", "run", "table7", "--set", "training.stps=3"], "training.steps"),
        (["study", "run", "table7", "--set", "training.steps"], "key=value"),
        (["study", "run", "table7", "--set", "training.steps=many"], "expected int"),
        (["study", "run", "table7", "--data", "nowhere-to-be-found"], "nowhere-to-be-found"),
        (["study", "status", "nowhere-to-be-found"], "nowhere-to-be-found"),
        (["study", "report", "nowhere-to-be-found"], "nowhere-to-be-found"),
        (["params", "table11"], "table10"),
        (["bench", "scan", "--shape", "4,x"], "B,L,D,N"),
        (["bench", "scan", "--device", "abacus"], "abacus"),
    ],
)
def test_wrong_input_is_one_clear_error_and_leaves_nothing(
    arguments, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    code = main(arguments)
    shown = capsys.readouterr()
    assert code == 1
    assert said in " ".join(shown.err.split())
    assert "Traceback" not in shown.err
    assert not list(tmp_path.glob("runs/**/*.json"))


def test_unknown_option_is_a_usage_error(capsys):
    assert main(["study", "run", "table7", "--sede", "2"]) == 2
    assert "--sede" in capsys.readouterr().err


def test_debug_keeps_the_traceback():
    from ssmlab.core.errors import StudyError

    with pytest.raises(StudyError):
        main(["study", "run", "tabel7", "--debug"])


def test_a_folder_that_cannot_be_written(text, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    assert run_tiny(text, blocked / "study") == 1
    assert "file, not a folder" in " ".join(capsys.readouterr().err.split())
    assert blocked.read_text() == "kept"

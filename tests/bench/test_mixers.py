"""The benchmark of mixers: what it reports, not how fast anything is."""

import json

import pytest
import torch

from ssmlab.bench import mixers
from ssmlab.cli import main
from ssmlab.core.errors import ConfigError

SMALL = {"lengths": (16, 32), "channels": 8, "tokens": 64, "repeats": 1, "round_s": 0.0}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors of a few numbers: quicker, and waits for nobody
    yield
    torch.set_num_threads(before)


def test_every_mixer_and_length_has_a_row_that_adds_up():
    rows = mixers.run(**SMALL)
    assert [(r["L"], r["mixer"]) for r in rows] == [
        (length, name) for length in (16, 32) for name in [mixers.REFERENCE, *mixers.names()]
    ]
    for row in rows:
        assert row["B"] * row["L"] == 64
        assert row["forward_ms"] > 0
        assert 0 < row["low_ms"] <= row["both_ms"] <= row["high_ms"]
        assert row["tokens_per_second"] == pytest.approx(64e3 / row["both_ms"])
        reference = next(r for r in rows if r["L"] == row["L"])
        assert row["times_reference"] == pytest.approx(row["both_ms"] / reference["both_ms"])
        assert row["peak_mb"] is None or row["peak_mb"] >= 0


def test_memory_counts_what_a_run_holds():
    (linear, attention) = mixers.run(
        mixers=["attention"], lengths=(2048,), channels=64, tokens=4096, repeats=1
    )
    if linear["peak_mb"] is None:
        pytest.skip("this system does not tell the peak of the resident size")
    megabytes = 4 * 4096 * 64 / 1e6
    assert linear["peak_mb"] >= megabytes  # the output at the least
    assert attention["peak_mb"] >= 4 * megabytes  # queries, keys, values and what is mixed


def test_our_convolution_takes_less_memory_than_the_plain_one():
    rows = mixers.run(
        mixers=["fft-conv", "fft-plain"], lengths=(4096,), channels=64, tokens=8192, repeats=1
    )
    peaks = {row["mixer"]: row["peak_mb"] for row in rows}
    if peaks["fft-conv"] is None:
        pytest.skip("this system does not tell the peak of the resident size")
    assert peaks["fft-conv"] < 0.8 * peaks["fft-plain"]


def test_table_json_and_picture(tmp_path, capsys):
    out, picture = tmp_path / "mixers.json", tmp_path / "mixers.svg"
    arguments = [
        "bench", "mixers", "--mixer", "s4d", "--mixer", "ssd", "--length", "16", "--length", "32",
        "--channels", "8", "--tokens", "64", "--repeats", "1", "--out", str(out),
        "--plot", str(picture),
    ]  # fmt: skip
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for text in ("s4d", "ssd", "linear", "forward", "peak"):
        assert text in shown
    written = json.loads(out.read_text())
    assert {row["mixer"] for row in written["rows"]} == {"linear", "s4d", "ssd"}
    assert picture.read_text().lstrip().startswith("<?xml")
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mixers": ["s5"]}, r"unknown mixer 's5'.*s6.*attention"),
        ({"lengths": (48,)}, r"length 48.*divisor of the 64 tokens"),
        ({"lengths": ()}, r"no length given"),
        ({"dtype": "int8"}, r"fp32 or bf16"),
        ({"device": "abacus"}, r"cpu, cuda or cuda:N"),
        ({"channels": 0}, r"channels.*at least 1"),
    ],
)
def test_bad_input_is_named(change, said):
    with pytest.raises(ConfigError, match=said):
        mixers.run(**{**SMALL, **change})


def test_a_picture_of_no_known_kind_is_refused_before_the_work(tmp_path, capsys):
    assert main(["bench", "mixers", "--plot", str(tmp_path / "mixers.txt")]) == 1
    assert ".svg, .png or .pdf" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())

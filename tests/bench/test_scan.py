"""The scan's benchmark: the loop it compares with is right, and its figures are what they claim."""

import dataclasses
import json
import math

import pytest
import torch

from ssmlab.bench import scan as bench
from ssmlab.bench import scan_cases as cases
from ssmlab.bench.peak import Peak
from ssmlab.cli import main
from ssmlab.core.errors import ConfigError
from ssmlab.ops import selective_scan

SHAPE = cases.Shape(2, 40, 6, 3)
TINY = ((2, 12, 6, 3),)


@pytest.mark.parametrize("loop", cases.LOOPS)
@pytest.mark.parametrize("dtype", ["fp64", "fp32", "bf16"])
def test_the_loops_are_the_reference(dtype, loop) -> None:
    inputs = cases.make_inputs(SHAPE, cases.DTYPES[dtype])
    grad_y = torch.ones_like(inputs.u)
    y = cases.make_call(loop, cases.FORWARD, inputs, grad_y)()
    wanted = selective_scan(*inputs, delta_softplus=True, backend="reference")
    tolerance = {"fp64": 1e-12, "fp32": 1e-5, "bf16": 1e-2}[dtype]
    torch.testing.assert_close(y, wanted, rtol=tolerance, atol=tolerance)
    grads = cases.make_call(loop, cases.BOTH, inputs, grad_y)()
    wanted = cases.make_call("reference", cases.BOTH, inputs, grad_y)()
    for name, a, b in zip(inputs._fields, grads, wanted, strict=True):
        norm = torch.linalg.vector_norm(b.double())
        assert torch.linalg.vector_norm(a.double() - b.double()) <= 2 * tolerance * norm, name


def test_inputs_have_decays_from_nearly_0_to_nearly_1() -> None:
    x = cases.make_inputs(cases.Shape(2, 200, 64, 16), torch.float32)
    delta = torch.nn.functional.softplus(x.delta + x.delta_bias)
    decay = torch.exp(delta[..., None] * x.A)
    assert decay.min() < 0.05
    assert decay.max() > 0.999
    assert all(tensor.isfinite().all() for tensor in x)
    again = cases.make_inputs(cases.Shape(2, 200, 64, 16), torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(x, again, strict=True))


def test_passes_do_what_they_say() -> None:
    inputs = cases.make_inputs(SHAPE, torch.float32)
    grad_y = torch.ones_like(inputs.u)
    for backend in (*cases.LOOPS, "reference", "cpu"):
        plain = cases.make_call(backend, cases.FORWARD, inputs, grad_y)()
        kept = cases.make_call(backend, cases.TRAINING_FORWARD, inputs, grad_y)()
        grads = cases.make_call(backend, cases.BOTH, inputs, grad_y)()
        assert not plain.requires_grad
        assert kept.requires_grad
        assert [g.shape for g in grads] == [t.shape for t in inputs]
    assert not any(tensor.requires_grad for tensor in inputs)


def run(**change):
    given = {"shapes": TINY, "repeats": 1, "measure_memory": False, **change}
    return bench.run(**given)


def test_report_of_every_shape_dtype_backend_and_pass(monkeypatch) -> None:
    told = []
    monkeypatch.setattr(bench, "measure_peak", lambda *_, **__: Peak(5184))
    report = run(
        shapes=((2, 12, 6, 3), (1, 1, 1, 1)),
        dtypes=("fp32", "bf16"),
        measure_memory=True,
        on_progress=told.append,
    )
    rows = report["rows"]
    keys = {(r["batch"], r["dtype"], r["backend"], r["run"]) for r in rows}
    assert len(keys) == len(rows) == 2 * 2 * 4 * 3
    assert told
    json.dumps(report, allow_nan=False)
    by_key = {(r["batch"], r["dtype"], r["run"], r["backend"]): r for r in rows}
    for row in rows:
        assert row["low_ms"] <= row["median_ms"] <= row["high_ms"]
        for ratio, loop in zip(("times_loop", "times_published"), cases.LOOPS, strict=True):
            base = by_key[row["batch"], row["dtype"], row["run"], loop]
            assert row[ratio] == base["median_ms"] / row["median_ms"]
        assert row["left_out"] == ()
        assert row["runs"] >= 1
        assert (row["error"] is None) == (row["run"] == cases.TRAINING_FORWARD)
        if row["error"] is not None:
            assert row["error"] < (2e-6 if row["dtype"] == "fp32" else 2e-2)
            assert row["error_length"] == row["length"]
        if row["batch"] == 2 and row["dtype"] == "fp32":
            # u, delta, z: 3 * 2*12*6; B, C: 2 * 2*12*3; A: 6*3; D, bias: 2*6; y: 2*12*6; 4 bytes.
            assert row["inputs_bytes"] == 4 * (432 + 144 + 18 + 12)
            assert row["output_bytes"] == 4 * 144
            assert row["memory_ratio"] == 5184 / 3000


def test_errors_are_those_of_the_backend(monkeypatch) -> None:
    """A backend whose y is one thousandth too large is off by one thousandth."""
    honest = cases.scan
    monkeypatch.setattr(cases, "scan", lambda b, x: honest(b, x) * (1.001 if b == "cpu" else 1))
    rows = {(r["backend"], r["run"]): r for r in run()["rows"]}
    assert rows["cpu", cases.FORWARD]["error"] == pytest.approx(1e-3, rel=1e-2)
    assert rows["cpu", cases.BOTH]["error"] == pytest.approx(1e-3, rel=1e-2)
    assert rows["loop", cases.FORWARD]["error"] < 1e-6


def test_errors_of_a_large_shape_are_taken_at_a_shorter_length(monkeypatch) -> None:
    monkeypatch.setattr(bench, "_ERROR_ELEMENTS", 2 * 6 * 3 * 5)
    rows = run()["rows"]
    assert {row["error_length"] for row in rows} == {None, 5}


def test_what_does_not_fit_memory_is_left_out_and_said(monkeypatch) -> None:
    states = 4 * 512 * 64 * 64
    monkeypatch.setattr(bench, "available_memory", lambda: 3 * states)
    report = run(shapes=((1, 512, 64, 64),))
    for row in report["rows"]:
        first = row["backend"] == cases.PUBLISHED_LOOP
        out = first or (row["backend"] != "cpu" and row["run"] != cases.FORWARD)
        assert (row["median_ms"] is None) == out
        assert bool(row["left_out"]) == out
        if out:
            assert "keeps all states at once" in row["left_out"][0]
        assert (row["times_loop"] is None) == (out or row["run"] != cases.FORWARD)
    monkeypatch.setattr(bench, "available_memory", lambda: 1000)
    with pytest.raises(ConfigError, match=r"2,12,6,3 needs .* GB"):
        run()


def test_a_failed_memory_probe_leaves_only_memory_out(monkeypatch) -> None:
    monkeypatch.setattr(bench, "measure_peak", lambda *_, **__: Peak(None, "it was killed"))
    for row in run(measure_memory=True)["rows"]:
        assert row["median_ms"] is not None
        assert row["extra_bytes"] is None
        assert row["left_out"] == ("memory: it was killed",)


def test_threads_are_set_and_given_back() -> None:
    before = torch.get_num_threads()
    assert run(threads=1)["threads"] == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"device": "abacus"}, ["abacus", "cpu"]),
        ({"device": "cuda"}, ["cuda", "cpu"]),
        ({"dtypes": ("fp23",)}, ["fp23", "fp32", "bf16", "fp16", "fp64"]),
        ({"shapes": ((2, 0, 3, 4),)}, ["(2, 0, 3, 4)", "1"]),
        ({"shapes": ((4096, 1 << 20, 4096, 16),)}, ["4096,1048576,4096,16", "GB", "smaller"]),
        ({"repeats": 0}, ["repeats is 0"]),
        ({"threads": 0}, ["threads is 0"]),
    ],
)
def test_wrong_arguments(change, words) -> None:
    with pytest.raises(ConfigError) as error:
        run(**change)
    assert all(word in str(error.value) for word in words)


@pytest.mark.slow
def test_memory_of_the_scan_itself() -> None:
    """The loop keeps every state for the backward pass; the compiled backend is far below that."""
    # A step's states take 64 KiB, which come from the system and go back to it: smaller blocks would
    # leave holes in the allocator's heap, and the loop's peak be twice what it holds.
    shape = cases.Shape(2, 256, 64, 128)
    states = 4 * shape.elements
    arguments = {
        "shape": dataclasses.asdict(shape),
        "dtype": "fp32",
        "pass_": cases.TRAINING_FORWARD,
    }
    peaks = {
        backend: bench.measure_peak(
            "ssmlab.bench.scan_cases:prepare", {**arguments, "backend": backend}, threads=1
        ).extra_bytes
        for backend in ("loop", "cpu")
    }
    # A decay and a state for each element is what autograd keeps.
    assert 2 * states < peaks["loop"] < 4 * states
    assert peaks["cpu"] < states / 2


def test_the_command_line(tmp_path, capsys) -> None:
    out = tmp_path / "new" / "scan.json"
    tiny = ["bench", "scan", "--shape", "1,5,4,2", "--repeats", "1", "--no-memory"]
    assert main([*tiny, "--json", "--out", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == printed
    assert {row["backend"] for row in printed["rows"]} == {*cases.LOOPS, "reference", "cpu"}
    assert printed["device"] == "cpu"
    assert all(math.isfinite(row["median_ms"]) for row in printed["rows"])

    assert main([*tiny, "--dtype", "bf16", "--dtype", "fp64"]) == 0
    shown = capsys.readouterr().out
    for word in ("bf16", "fp64", "loop", "reference", "fwd+bwd", "quartiles", "float64"):
        assert word in shown


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--shape", "4,0,2,2"], "B,L,D,N"),
        (["--dtype", "int8"], "int8"),
        (["--device", "cuda"], "cuda"),
        (["--out", "."], "folder"),
        (["--out", "file/x.json"], "cannot write"),
    ],
)
def test_wrong_command_lines(more, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["bench", "scan", "--shape", "1,2,2,2", *more]) == 1
    shown = capsys.readouterr()
    assert said in " ".join(shown.err.split())
    assert not shown.out
    assert "Traceback" not in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

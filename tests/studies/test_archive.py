"""Studies packed into one file and back: nothing lost that a report needs, nothing of the owner."""

import json
import lzma
import shutil
from pathlib import Path

import pytest

from ssmlab.cli import main
from ssmlab.core.errors import StudyError
from ssmlab.studies import load_results, pack_study, run_study, study_status, unpack_study
from ssmlab.studies.report import build_report, write_report
from ssmlab.studies.store import StudyStore
from tests.studies.conftest import TINY
from tests.studies.test_reuse import SIZES, files


@pytest.fixture(scope="module")
def study(tmp_path_factory, text_folder) -> Path:
    """A folder with a trial in each state: done, failed, partial, pending."""
    out = tmp_path_factory.mktemp("packing") / "secret place" / "study"
    overrides = {
        "data.paths": [str(text_folder)],
        "data.val_fraction": 0.3,
        "data.cache_dir": str(out.parent / "cache"),
    }
    run_study(TINY, out, overrides=overrides)
    _, failed, partial, pending = load_results(out).trials
    for trial in (failed, partial):
        for name in ("DONE", "result.json"):
            (trial.folder / name).unlink()
    shutil.rmtree(pending.folder)
    StudyStore(out).record_failure(failed.name, f"cannot read {out}/x.txt: no", "at /home/me/x.py")
    for name in ("checkpoint-000000002.safetensors", "model.safetensors"):
        (partial.folder / name).write_bytes(b"weights")
    return out


@pytest.fixture
def packed(study, tmp_path) -> Path:
    pack_study(study, tmp_path / "tiny.jsonl.xz")
    return tmp_path / "tiny.jsonl.xz"


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in lzma.decompress(file.read_bytes()).splitlines()]


def rewrite(file: Path, changed: list) -> None:
    text = "".join(json.dumps(line) + "\n" for line in changed)
    file.write_bytes(lzma.compress(text.encode()))


def test_back_to_a_folder_that_says_the_same(study, packed, tmp_path):
    out = tmp_path / "new" / "study"
    unpack_study(packed, out)
    # The step of the partial trial was that of its checkpoint.
    before, after = study_status(study), study_status(out)
    assert [line["state"] for line in after] == ["done", "failed", "partial", "pending"]
    assert after[2].pop("step") == 0
    assert before[2].pop("step") == 2
    assert after[1].pop("error") == "cannot read x.txt: no"
    assert before[1].pop("error").endswith("/x.txt: no")
    assert after == before
    for old, new in zip(load_results(study).trials, load_results(out).trials, strict=True):
        assert (new.metrics(), new.result) == (old.metrics(), old.result)
    assert not list(out.rglob("*.safetensors"))
    assert {path.name for path in out.iterdir()} == {"study.json", "trials"}
    assert {path.name for path in out.parent.iterdir()} == {"study"}


def test_the_same_folder_gives_the_same_bytes(study, packed, tmp_path):
    pack_study(study, tmp_path / "again.jsonl.xz")
    assert (tmp_path / "again.jsonl.xz").read_bytes() == packed.read_bytes()
    unpack_study(packed, tmp_path / "study")
    pack_study(tmp_path / "study", tmp_path / "third.jsonl.xz")
    assert lines(tmp_path / "third.jsonl.xz") == lines(packed)


def test_nothing_tells_of_the_owner(study, packed, text_folder):
    text = lzma.decompress(packed.read_bytes()).decode()
    environment = load_results(study).trials[0].environment()
    assert environment is not None
    for telling in (
        "secret place",
        "/home",
        str(text_folder),
        environment["host"],
        environment["platform"],
    ):
        assert telling not in text
    head, trial, *_ = lines(packed)
    assert head["study"]["overrides"]["data.paths"] == [text_folder.name]
    assert trial["config"]["data"]["cache_dir"] == "cache"
    assert trial["environment"] == {
        key: value for key, value in environment.items() if key not in ("host", "platform", "argv")
    }


def test_words_and_names_stay(tmp_path):
    """Labels and titles are text for people, also where they look like paths; a study of the
    user's own is still named by its file."""
    from ssmlab.core.files import write_json
    from ssmlab.studies import Axis, Point, Study

    words = "see https://x.org/a/b or docs/x.md, a/b"
    own = Study(
        name="own",
        title="/not/a/path",
        source=words,
        axes=(Axis("a", (Point("/x/1", {"init_from": "/models/a b/c"}, "one"),)),),
        base={},
        scales=TINY.scales,
    )
    store = StudyStore(tmp_path / "own")
    trials = own.trials("quick", 1)
    store.begin(own, "quick", 1, {}, trials)
    argv = ["/usr/bin/ssmlab", "study", "run", "/home/me/own.py:OWN"]
    write_json(store.trial_folder(trials[0].name) / "environment.json", {"argv": argv})
    pack_study(store.folder, tmp_path / "own.jsonl.xz")
    head, trial = lines(tmp_path / "own.jsonl.xz")
    study = head["study"]["study"]
    assert (study["title"], study["source"]) == ("/not/a/path", words)
    assert study["axes"][0]["points"][0]["label"] == "/x/1"
    assert study["axes"][0]["points"][0]["changes"] == {"init_from": "c"}
    assert trial["environment"] == {"argv": ["own.py:OWN"]}
    assert "run own.py:OWN" in build_report(tmp_path / "own.jsonl.xz").commands[0]


def test_report_and_status_read_the_file_itself(study, packed, tmp_path, capsys):
    of_folder, of_file = build_report(study), build_report(packed)
    assert of_file.archive == packed.name
    assert of_file.commands[0].endswith("--out runs/tiny-quick")
    assert of_file.commands[1] == f"ssmlab study report {packed.name}"
    assert (of_file.claims, of_file.order) == (of_folder.claims, of_folder.order)
    assert [row.mean for row in of_file.rows] == [row.mean for row in of_folder.rows]
    facts = [
        {name: text for name, text in report.facts if name not in ("Changed settings", "System")}
        for report in (of_file, of_folder)
    ]
    assert facts[0] == facts[1]

    first = write_report(packed)
    assert first["md"] == tmp_path / "tiny-report" / "report.md"
    moved = tmp_path / "elsewhere" / packed.name
    moved.parent.mkdir()
    shutil.copy(packed, moved)
    second = write_report(moved, tmp_path / "to")
    assert second["json"] == tmp_path / "to" / "report.json"
    for kind, path in first.items():
        assert second[kind].read_bytes() == path.read_bytes()

    assert main(["study", "status", str(packed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["done"] == 1
    assert main(["study", "report", str(packed), "--to", str(tmp_path / "cli"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["md"] == str(tmp_path / "cli/report.md")


@pytest.mark.parametrize("unpacked", [True, False])
def test_trials_are_taken_over_from_it(tiny, data, tmp_path, watch, unpacked):
    run_study(tiny, tmp_path / "ran", seeds=1, overrides=data)
    source = tmp_path / "ran.jsonl.xz"
    pack_study(tmp_path / "ran", source)
    if unpacked:
        unpack_study(source, tmp_path / "unpacked")
        source = tmp_path / "unpacked"
    out = tmp_path / "out"
    run_study(SIZES, out, seeds=1, overrides=data, reuse=[source], on_event=watch)
    assert watch.messages("reuse") == "1 of 2 trials taken over from other studies: tiny (1)"
    assert len(watch.names("trial-start")) == 1
    pack_study(out, tmp_path / "out.jsonl.xz")
    assert lines(tmp_path / "out.jsonl.xz")[1]["origin"]["study"] == "tiny"


def test_a_study_without_absolute_paths_goes_on_where_it_was_unpacked(
    tiny, data, tmp_path, text_folder, watch, monkeypatch
):
    shutil.copytree(text_folder, tmp_path / "text")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSMLAB_CACHE", str(tmp_path / "cache"))
    overrides = {"data.paths": ["text"], "data.val_fraction": 0.3}
    run_study(tiny, Path("ran"), seeds=1, overrides=overrides)
    pack_study(Path("ran"), Path("ran.jsonl.xz"))
    unpack_study(Path("ran.jsonl.xz"), Path("back"))
    run_study(tiny, Path("back"), seeds=2, overrides=overrides, on_event=watch)
    assert len(watch.names("trial-skipped")) == len(watch.names("trial-start")) == 2
    with pytest.raises(StudyError, match="other settings"):
        run_study(tiny, Path("back"), seeds=2, overrides=data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def altered(place: int, **changes):
    def alter(file: Path) -> None:
        changed = lines(file)
        changed[place].update(changes)
        rewrite(file, changed)

    return alter


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "cut off"),
        (flip, "damaged"),
        (lambda file: file.write_bytes(b""), "cannot be read|cut off"),
        (lambda file: file.write_text('{"format": 1}\n'), "was not written by"),
        (lambda file: rewrite(file, []), "cannot be read"),
        (lambda file: rewrite(file, [{"format": "other"}]), "no packed study"),
        (lambda file: rewrite(file, [[1], {}]), "no packed study"),
        (lambda file: rewrite(file, lines(file)[:-1]), "of the 4 trials .* it has 3"),
        (altered(0, version=2), "use the ssmlab that wrote it"),
        (altered(0, study={"format": 9}), "use the ssmlab that wrote it"),
        (altered(0, study=None), "altered"),
        (altered(0, study={"format": 1, "trials": [1]}), "altered"),
        (altered(1, name="../../x"), "altered"),
        (altered(1, name=5), "altered"),
        (altered(1, result={"status": "?"}), "altered .* result of trial"),
        (altered(1, result=[]), "altered"),
        (altered(1, result={"status": "ok", "val_loss": float("nan")}), "altered"),
        (altered(1, metrics=[{"loss": 1}]), "altered .* metrics of trial"),
        (altered(1, metrics=7), "altered"),
    ],
)
def test_damaged_and_foreign_files_are_errors_that_write_nothing(packed, tmp_path, damage, said):
    damage(packed)
    before = files(tmp_path)
    for read in (
        lambda: unpack_study(packed, tmp_path / "new" / "study"),
        lambda: write_report(packed),
        lambda: write_report(packed, tmp_path / "new"),
    ):
        with pytest.raises(StudyError, match=said):
            read()
    assert files(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {packed.name}


def test_names_that_lead_out_of_the_folder_are_refused(packed, tmp_path):
    changed = lines(packed)
    for name in ("../../x", "/x", "..", "", "a\\b"):
        changed[0]["study"]["trials"][0]["name"] = changed[1]["name"] = name
        rewrite(packed, changed)
        with pytest.raises(StudyError, match="cannot be a trial's name"):
            unpack_study(packed, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_nothing_is_overwritten_unasked(study, packed, tmp_path, capsys):
    packed.write_text("mine")
    assert main(["study", "pack", str(study), str(packed)]) == 1
    assert "--force" in capsys.readouterr().err
    assert packed.read_text() == "mine"
    assert main(["study", "pack", str(study), str(packed), "--force"]) == 0
    assert lines(packed)[0]["version"] == 1

    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    assert main(["study", "unpack", str(packed), str(tmp_path / "taken")]) == 1
    assert "not empty" in " ".join(capsys.readouterr().err.split())
    assert {path.name for path in (tmp_path / "taken").iterdir()} == {"mine.txt"}
    (tmp_path / "empty").mkdir()
    assert main(["study", "unpack", str(packed), str(tmp_path / "empty")]) == 0
    assert len(load_results(tmp_path / "empty").trials) == 4


def test_a_folder_that_cannot_be_packed_leaves_no_file(study, tmp_path):
    with pytest.raises(StudyError, match="no study in"):
        pack_study(tmp_path / "nowhere", tmp_path / "x.jsonl.xz")
    shutil.copytree(study, tmp_path / "damaged")
    first = load_results(tmp_path / "damaged").trials[0]
    (first.folder / "result.json").write_text("{")
    with pytest.raises(StudyError, match=r"cannot read .*result.json; remove"):
        pack_study(tmp_path / "damaged", tmp_path / "x.jsonl.xz")
    assert not (tmp_path / "x.jsonl.xz").exists()
    with pytest.raises(StudyError, match=r"no file .*nowhere"):
        unpack_study(tmp_path / "nowhere.xz", tmp_path / "study")

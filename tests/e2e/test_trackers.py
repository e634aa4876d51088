"""Trackers follow a run's events for real, offline; what they stored is read back."""

from __future__ import annotations

import json
import sqlite3
import struct
import warnings
from pathlib import Path

import pytest

from tandem.cli import main
from tandem.errors import ConfigError
from tandem.runs.display import Hidden
from tandem.runs.events import read_events
from tandem.runs.run import Run
from tandem.runs.trackers import Steps, numbers_of, open_trackers

VALUES = [0.75, 0.5, 0.25]


def fit(steps: int, *, events) -> list[float]:
    """A stage that reports its loss as a training loop does."""
    for step in range(steps):
        events.log("train", step=step + 1, loss=VALUES[step], text="shown, not tracked")
    return VALUES[:steps]


def tracked(name: str, folder: Path) -> Path:
    """Run the stage with a tracker in the folder `run`."""
    path = folder / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own deprecations
        follow = lambda: open_trackers([name], path, {"seed": 3})  # noqa: E731
        with Run(path, 3, display=Hidden(), follow=follow) as run:
            run("fit", fit, 3)
    train = [e for e in read_events(path / "events.jsonl") if e["kind"] == "train"]
    assert [(e["step"], e["loss"]) for e in train] == [(1, 0.75), (2, 0.5), (3, 0.25)]
    return path


def test_tensorboard_reads_back_what_the_run_said(tmp_path):
    pytest.importorskip("tensorboard", reason="`make trackers` installs it")
    path = tracked("tensorboard", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        seen = EventAccumulator(str(path / "trackers/tensorboard"))
        seen.Reload()
    assert [(s.step, s.value) for s in seen.Scalars("01-fit/train/loss")] == [
        (1, 0.75), (2, 0.5), (3, 0.25),
    ]  # fmt: skip
    assert "01-fit/done/seconds" in seen.Tags()["scalars"]


def test_wandb_writes_its_offline_file(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="`make trackers` installs it")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    path = tracked("wandb", tmp_path)
    (file,) = (path / "trackers/wandb").rglob("*.wandb")
    rows = list(wandb_history(file))
    assert [float(r["01-fit/train/loss"]) for r in rows if "01-fit/train/loss" in r] == VALUES


def wandb_history(file: Path):
    """Yield the rows of a .wandb file: LevelDB's log format around protobuf records."""
    from wandb.proto import wandb_internal_pb2

    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            message = wandb_internal_pb2.Record.FromString(record)
            items = message.history.item
            yield {"/".join(i.nested_key) or i.key: i.value_json for i in items}
            record = b""


def test_trackio_stores_the_run_in_its_local_database(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="`make trackers` installs it")
    import trackio.utils

    monkeypatch.setattr(trackio.utils, "TRACKIO_DIR", tmp_path / "trackio")
    import trackio.sqlite_storage as storage

    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    tracked("trackio", tmp_path)
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as base:
        rows = [json.loads(r[0]) for r in base.execute("select metrics from metrics order by id")]
    assert [r["01-fit/train/loss"] for r in rows if "01-fit/train/loss" in r] == VALUES


def test_unknown_trackers_are_refused_before_anything_is_written(tmp_path, capsys):
    out = tmp_path / "run"
    words = ["run", "dpo", "--task", "micro", "--out", str(out), "--tracker", "tensorbord"]
    assert main(words) == 2
    assert "Did you mean `tensorboard`?" in capsys.readouterr().err
    assert not out.exists()


def test_a_tracker_that_is_not_installed_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'tandem-rlhf\[wandb\]'"):
        list(open_trackers(["wandb"], tmp_path, {}))


def test_numbers_are_named_by_stage_and_kind_and_numbered_by_their_own_counter():
    event = {"time": 1.0, "kind": "train", "stage": "02-sft", "step": 7, "loss": 0.5, "text": "x"}
    assert numbers_of(event) == {"02-sft/train/loss": 0.5}
    steps = Steps()
    assert steps.of(event) == 7
    done = {"kind": "done", "stage": "02-sft", "seconds": 1.0}
    assert [steps.of(done), steps.of(done), steps.of({**done, "stage": "03"})] == [0, 1, 0]

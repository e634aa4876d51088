"""A run's copy in a store: it goes on elsewhere, whole, and two machines never mix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tandem.cli import main
from tandem.errors import RunError
from tandem.rng import Seed
from tandem.runs.context import StageContext
from tandem.runs.run import Run
from tandem.runs.store import OWNER, RunStore, open_store


def draw(*, seed: Seed) -> int:
    return int(seed.rng().integers(1000))


def counted(n: int, *, ctx: StageContext) -> int:
    """Counts to n, and writes after each number what it can resume from."""
    state = ctx.scratch / "state.json"
    begun = json.loads(state.read_text()) if state.exists() else 0
    for k in range(begun, n):
        state.write_text(json.dumps(k + 1))
        if k == n // 2 and begun == 0:
            raise KeyboardInterrupt
    return begun


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/store/run" if request.param == "file" else f"memory://{tmp_path}/run"


def _begun(folder: Path, url: str) -> int:
    """A run whose second stage is interrupted in the middle."""
    with RunStore(folder, url, every=3600), Run(folder, 7) as run:
        number = run("number", draw)
        with pytest.raises(KeyboardInterrupt):
            run("count", counted, 10)
    return number


def test_a_run_goes_on_elsewhere_from_the_store_alone(tmp_path: Path, url: str):
    here, there = tmp_path / "here", tmp_path / "there"
    number = _begun(here, url)
    shutil.rmtree(here)
    told: list[str] = []
    with RunStore(there, url, say=told.append), Run(there, 7) as run:
        assert run("number", draw) == number
        assert run("count", counted, 10) == 6, "it goes on from its scratch"
    assert told[0].endswith(f"files came from {url}")
    names = {p.relative_to(there).as_posix() for p in there.rglob("*") if p.is_file()}
    store = RunStore(tmp_path / "third", url, say=told.append)
    assert store.fetch()
    third = {p.relative_to(store.folder).as_posix() for p in store.folder.rglob("*")}
    assert names - {"run.lock"} == third & names - {"run.lock"}
    assert not [name for name in third if ".part" in name], "its folder has its last name"
    with Run(store.folder, 7) as run:
        assert (run("number", draw), run("count", counted, 10)) == (number, 6)


def test_what_did_not_change_is_not_sent_again(tmp_path: Path, url: str):
    folder = tmp_path / "run"
    with RunStore(folder, url, every=3600) as store:
        with Run(folder, 7) as run:
            run("number", draw)
        assert store.send() > 3
        assert store.send() == 0
        (folder / "run.toml").write_text("a = 1\n")
        assert store.send() == 1
        (folder / "run.toml").unlink()
        assert store.send() == 0
        assert not store._files.exists(f"{store._root}/run.toml")
    with RunStore(folder, url, every=3600) as store:
        assert store.send() == 0, "the folder knows what it has sent"


def test_the_machine_before_stops_and_may_not_come_back(tmp_path: Path, url: str):
    here, there = tmp_path / "here", tmp_path / "there"
    first = RunStore(here, url, every=3600)
    first.__enter__()
    with Run(here, 7) as run:
        run("number", draw)
    first.send()
    with RunStore(there, url), Run(there, 7) as run:
        run("count", draw)
    (here / "run.toml").write_text("of the first")
    with pytest.raises(RunError, match="taken over by another machine"):
        first.__exit__(None)
    again = RunStore(there, url)
    assert not again._files.exists(f"{again._root}/run.toml"), "nothing was mixed in"
    with pytest.raises(RunError, match="went on elsewhere"):
        RunStore(here, url).fetch()
    shutil.rmtree(here)
    assert RunStore(here, url, say=lambda _: None).fetch()


def test_a_folder_of_another_run_is_left_alone(tmp_path: Path, url: str):
    _begun(tmp_path / "here", url)
    other = tmp_path / "other"
    with Run(other, 8) as run:
        run("number", draw)
    before = sorted(other.rglob("*"))
    with pytest.raises(RunError, match="or another one than"):
        RunStore(other, url).fetch()
    assert sorted(other.rglob("*")) == before


def test_a_store_that_is_away_for_a_while_is_tried_again(tmp_path: Path, url: str):
    folder, told = tmp_path / "run", list[str]()
    with RunStore(folder, url, every=0.1, say=told.append) as store:
        send, tries = store._files.put_file, [0]

        def away(*args: Any, **kw: Any) -> None:
            tries[0] += 1
            if tries[0] < 4:
                raise OSError("nobody answers")
            send(*args, **kw)

        store._files.put_file = away
        try:
            with Run(folder, 7) as run:
                run("number", draw)
        finally:
            store._closing.wait(0.8)
            store._files.put_file = send
    assert [line for line in told if "nobody answers" in line] == told[:1]
    assert RunStore(tmp_path / "there", url, say=told.append).fetch()


def test_what_could_not_be_sent_at_the_end_is_an_error(tmp_path: Path, monkeypatch):
    store = RunStore(tmp_path / "run", f"file://{tmp_path}/store", every=3600)

    def away(*args: Any, **kw: Any) -> None:
        raise OSError("nobody answers")

    monkeypatch.setattr(store._closing, "wait", lambda _: True)
    store.__enter__()
    with Run(tmp_path / "run", 7) as run:
        run("number", draw)
    monkeypatch.setattr(store._files, "put_file", away)
    with pytest.raises(RunError, match=r"(?s)not all of .* nobody answers.*same command again"):
        store.__exit__(None)


@pytest.mark.parametrize("name", ["../away", "02-a/../../away", "..\\away"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, monkeypatch, name: str):
    url = f"file://{tmp_path}/store"
    _begun(tmp_path / "here", url)
    store = RunStore(tmp_path / "there", url)
    monkeypatch.setattr(store._files, "find", lambda root: [f"{root}/{name}"])
    with pytest.raises(RunError, match="leads out of it"):
        store.fetch()
    assert not (tmp_path / "there").exists()
    assert not (tmp_path / "away").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:secret@bucket/run", "holds a key"),
        ("nothing://bucket/run", "nothing"),
        ("gs://bucket/run", "gcsfs"),
    ],
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, capsys, url: str, said: str):
    words = ["run", "dpo", "--task=micro", f"--out={tmp_path / 'run'}", f"--store={url}"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "secret" not in told
    assert "do:" in told
    assert not (tmp_path / "run").exists()


def test_nothing_is_kept_without_an_address(tmp_path: Path):
    with open_store(tmp_path / "run", None, every=30.0):
        pass
    assert not (tmp_path / "run").exists()


def test_a_bench_with_a_store_says_where_it_is(tmp_path: Path, capsys):
    words = ["bench", "--preset=smoke", f"--store=file://{tmp_path}/store"]
    assert main(words) == 2
    assert "give --out" in capsys.readouterr().err


def test_a_broken_owner_is_nobody(tmp_path: Path):
    url = f"file://{tmp_path}/store"
    _begun(tmp_path / "here", url)
    for text in ("{", "[]", '{"owner": 3}'):
        (tmp_path / "store" / OWNER).write_text(text)
        with pytest.raises(RunError, match="went on elsewhere"):
            RunStore(tmp_path / "here", url).fetch()

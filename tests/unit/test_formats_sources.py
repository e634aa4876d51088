"""Files, folders, hub ids: the same rows come out of each."""

from __future__ import annotations

import csv
import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tandem.errors import DataError
from tandem.formats import read, write
from tandem.formats.reader import STREAM_ABOVE_BYTES

ROWS: list[dict[str, Any]] = [
    {"prompt": f"How is {k}, “really”?", "chosen": f"Good,\n{k}", "rejected": f'"Bad" {k}'}
    for k in range(20)
]


def written(path: Path, kind: str) -> Path:
    path = path / f"data{kind}"
    opened = (
        gzip.open(path, "wt", encoding="utf-8")
        if kind.endswith(".gz")
        else path.open("w", encoding="utf-8", newline="")
    )
    with opened as stream:
        if ".csv" in kind:
            table = csv.DictWriter(stream, list(ROWS[0]))
            table.writeheader()
            table.writerows(ROWS)
        elif kind.startswith(".json") and "l" not in kind:
            json.dump(ROWS, stream)
        else:
            stream.write("".join(json.dumps(row) + "\n\n" for row in ROWS))
    return path


@pytest.fixture(scope="module", autouse=True)
def _datasets_cache(tmp_path_factory: pytest.TempPathFactory):
    import datasets

    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))
    datasets.disable_progress_bars()
    yield
    patch.undo()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    data = read(written(tmp_path_factory.mktemp("plain"), ".jsonl"))
    assert len(data.groups) == 20
    assert data.groups[3].completions[1].text == '"Bad" 3'
    return data.groups.hash


@pytest.mark.parametrize("kind", [".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".ndjson"])
def test_text_files(kind: str, tmp_path: Path, expected: str):
    assert read(written(tmp_path, kind)).groups.hash == expected


def test_json_lines_named_json(tmp_path: Path, expected: str):
    path = written(tmp_path, ".jsonl").rename(tmp_path / "data.json")
    assert read(path).groups.hash == expected


def test_byte_order_mark(tmp_path: Path, expected: str):
    path = written(tmp_path, ".jsonl")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(path).groups.hash == expected


def test_parquet(tmp_path: Path, expected: str):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "data.parquet")
    assert read(tmp_path / "data.parquet").groups.hash == expected


def test_own_groups(tmp_path: Path, expected: str):
    groups = read(written(tmp_path, ".jsonl")).groups
    groups.write(tmp_path / "groups.parquet")
    again = read(tmp_path / "groups.parquet")
    assert again.format == "groups"
    assert again.groups.hash == expected
    assert len(read(tmp_path / "groups.parquet", limit=3).groups) == 3


def test_saved_datasets(tmp_path: Path, expected: str):
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "one"))
    assert read(tmp_path / "one").groups.hash == expected
    datasets.DatasetDict({"test": data.select(range(5)), "train": data}).save_to_disk(
        str(tmp_path / "two")
    )
    both = read(tmp_path / "two")
    assert both.groups.hash == expected
    assert both.splits == ("test",)
    assert "split `train` of test, train" in both.notes.remarks
    assert len(read(tmp_path / "two", split="test").groups) == 5
    with pytest.raises(DataError, match="no split `tset`") as error:
        read(tmp_path / "two", split="tset")
    assert "`test`" in error.value.why


def test_folder_of_data_files_goes_through_load_dataset(tmp_path: Path, expected: str):
    folder = tmp_path / "repository"
    folder.mkdir()
    written(folder, ".jsonl").rename(folder / "train.jsonl")
    assert read(folder).groups.hash == expected


def test_hub_id_goes_through_load_dataset(
    tmp_path: Path, expected: str, monkeypatch: pytest.MonkeyPatch
):
    """`owner/name` that `datasets` finds (a local folder here) is read by its own loader."""
    (tmp_path / "owner" / "name").mkdir(parents=True)
    written(tmp_path / "owner" / "name", ".jsonl").rename(tmp_path / "owner/name/train.jsonl")
    monkeypatch.chdir(tmp_path)
    assert read("owner/name").groups.hash == expected


def test_csv_lists_are_json(tmp_path: Path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["prompt", "completions", "scores"])
        table.writerow(["a", json.dumps(["x", "y"]), "[1, 2.5]"])
    group = read(path).groups[0]
    assert [c.text for c in group.completions] == ["x", "y"]
    assert group.preferences[0].margin == 1.5


def test_csv_labels_and_numbers(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion,label\na,b,True\na,c,0\n")
    assert [float(g.scores[0]) for g in read(path).groups if g.scores is not None] == [1, 0]


def many(path: Path, n: int) -> Path:
    with path.open("w") as stream:
        for k in range(n):
            words = f"number {k} is told in some more words " * 6
            row = {
                "prompt": f"Tell {k}: {words}",
                "chosen": f"yes {words}",
                "rejected": f"no {words}",
            }
            stream.write(json.dumps(row) + "\n")
    return path


def test_large_files_stream_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Python memory stays far below the file's size, and a second read opens the cache."""
    assert STREAM_ABOVE_BYTES <= 1 << 24, "what stays in memory is small"
    monkeypatch.setattr("tandem.formats.reader.STREAM_ABOVE_BYTES", 1 << 20)
    path = many(tmp_path / "large.jsonl", 12_000)
    tracemalloc.start()
    data = read(path, cache=tmp_path / "cache")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.groups) == 12_000
    assert peak < path.stat().st_size
    assert len(list((tmp_path / "cache").glob("read-*.parquet"))) == 1
    monkeypatch.setattr("tandem.formats.reader._groups", lambda *_: pytest.fail("parsed again"))
    again = read(path, cache=tmp_path / "cache")
    assert again.groups.hash == data.groups.hash
    assert again.notes == data.notes


@pytest.mark.slow
def test_a_hundred_thousand_pairs_stay_in_bounded_memory(tmp_path: Path):
    """Read and encode 100,000 pairs (150 MB) in a fresh process; peak resident below 1.5 GiB.

    The same work on 10,000 pairs is the floor: imports, the tokenizer, one chunk in flight.
    """
    import subprocess
    import sys

    script = (
        "import resource, sys; from pathlib import Path; from tandem.formats import read;"
        "from tandem.chat import encode; from vocabularies import CHATML, byte_bpe;"
        "data = read(sys.argv[1], cache=Path(sys.argv[2]));"
        "out = encode(data.groups, byte_bpe(CHATML), max_length=4096, workers=2,"
        " cache=Path(sys.argv[2]));"
        "print(len(out.groups), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    peaks = {}
    for n in (10_000, 100_000):
        path = many(tmp_path / f"{n}.jsonl", n)
        done = subprocess.run(
            [sys.executable, "-c", f"if __name__ == '__main__': exec({script!r})", path, tmp_path / "cache"],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        kept, peak = map(int, done.stdout.split())
        assert kept == n
        peaks[n] = peak
    print(peaks)
    assert peaks[100_000] < 1536


def test_write_then_read_through_each_kind(tmp_path: Path):
    groups = read(written(tmp_path, ".jsonl")).groups
    for kind in (".jsonl", ".jsonl.gz", ".parquet"):
        assert write(groups, tmp_path / f"out{kind}", "preference").rows == 20
        assert read(tmp_path / f"out{kind}").groups.hash == groups.hash

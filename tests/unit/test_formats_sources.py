"""Files, folders, hub ids: the same rows come out of each."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tandem.data.formats import read_data, write_data
from tandem.data.formats.reader import STREAM_ABOVE_BYTES
from tandem.data.groups import Groups
from tandem.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"prompt": f"How is {k}, “really”?", "chosen": f"Good,\n{k}", "rejected": f'"Bad" {k}'}
    for k in range(20)
]


def written(folder: Path, kind: str) -> Path:
    text = io.StringIO(newline="")
    if ".csv" in kind:
        table = csv.DictWriter(text, list(ROWS[0]))
        table.writeheader()
        table.writerows(ROWS)
    elif kind.startswith(".json") and "l" not in kind:
        json.dump(ROWS, text)
    else:
        text.write("".join(json.dumps(row) + "\n\n" for row in ROWS))
    data = text.getvalue().encode()
    path = folder / f"data{kind}"
    path.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
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
    data = read_data(written(tmp_path_factory.mktemp("plain"), ".jsonl"))
    assert len(data.groups) == 20
    assert data.groups[3].completions[1].text == '"Bad" 3'
    return data.groups.hash


@pytest.mark.parametrize("kind", [".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".ndjson"])
def test_text_files(kind: str, tmp_path: Path, expected: str):
    assert read_data(written(tmp_path, kind)).groups.hash == expected


def test_json_lines_named_json(tmp_path: Path, expected: str):
    path = written(tmp_path, ".jsonl").rename(tmp_path / "data.json")
    assert read_data(path).groups.hash == expected


def test_byte_order_mark(tmp_path: Path, expected: str):
    path = written(tmp_path, ".jsonl")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_data(path).groups.hash == expected


def test_parquet(tmp_path: Path, expected: str):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "data.parquet")
    assert read_data(tmp_path / "data.parquet").groups.hash == expected


def test_own_groups(tmp_path: Path, expected: str):
    groups = read_data(written(tmp_path, ".jsonl")).groups
    groups.write(tmp_path / "groups.parquet")
    again = read_data(tmp_path / "groups.parquet")
    assert again.format == "groups"
    assert again.groups.hash == expected
    assert len(read_data(tmp_path / "groups.parquet", limit=3).groups) == 3


def test_saved_datasets(tmp_path: Path, expected: str):
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "one"))
    assert read_data(tmp_path / "one").groups.hash == expected
    datasets.DatasetDict({"test": data.select(range(5)), "train": data}).save_to_disk(
        str(tmp_path / "two")
    )
    both = read_data(tmp_path / "two")
    assert both.groups.hash == expected
    assert both.splits == ("test",)
    assert "split `train` of test, train" in both.notes.remarks
    assert len(read_data(tmp_path / "two", split="test").groups) == 5
    with pytest.raises(DataError, match="no split `tset`") as error:
        read_data(tmp_path / "two", split="tset")
    assert "`test`" in error.value.why


def test_folder_of_data_files_goes_through_load_dataset(tmp_path: Path, expected: str):
    folder = tmp_path / "repository"
    folder.mkdir()
    written(folder, ".jsonl").rename(folder / "train.jsonl")
    assert read_data(folder).groups.hash == expected


def test_hub_id_goes_through_load_dataset(
    tmp_path: Path, expected: str, monkeypatch: pytest.MonkeyPatch
):
    """`owner/name` that `datasets` finds (a local folder here) is read by its own loader."""
    (tmp_path / "owner" / "name").mkdir(parents=True)
    written(tmp_path / "owner" / "name", ".jsonl").rename(tmp_path / "owner/name/train.jsonl")
    monkeypatch.chdir(tmp_path)
    assert read_data("owner/name").groups.hash == expected


def test_hub_id_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="cannot open nobody/nothing") as error:
        read_data("nobody/nothing")
    assert "looked for on the hub" in error.value.why


def test_csv_lists_are_json(tmp_path: Path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["prompt", "completions", "scores"])
        table.writerow(["a", json.dumps(["x", "y"]), "[1, 2.5]"])
    group = read_data(path).groups[0]
    assert [c.text for c in group.completions] == ["x", "y"]
    assert group.preferences[0].margin == 1.5


def test_csv_labels_and_numbers(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion,label\na,b,True\na,c,0\n")
    assert [float(g.scores[0]) for g in read_data(path).groups if g.scores is not None] == [1, 0]


def many(path: Path, n: int) -> Path:
    rng = np.random.default_rng(0)
    words = np.array([f"w{k}" for k in range(997)])
    with path.open("w") as stream:
        for k in range(n):
            said = [" ".join(rng.choice(words, size)) for size in (80, 40, 40)]
            row = {
                "prompt": f"{k} {said[0]}",
                "chosen": f"yes {said[1]}",
                "rejected": f"no {said[2]}",
            }
            stream.write(json.dumps(row) + "\n")
    return path


def test_large_files_stream_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Python memory stays far below the file's size, and a second read opens the cache."""
    assert STREAM_ABOVE_BYTES <= 1 << 24, "what stays in memory is small"
    monkeypatch.setattr("tandem.data.formats.reader.STREAM_ABOVE_BYTES", 1 << 20)
    path = many(tmp_path / "large.jsonl", 12_000)
    tracemalloc.start()
    data = read_data(path, cache=tmp_path / "cache")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.groups) == 12_000
    assert peak < path.stat().st_size
    assert len(list((tmp_path / "cache").glob("read-*.parquet"))) == 1
    monkeypatch.setattr(Groups, "stream", lambda *_: pytest.fail("written again"))
    again = read_data(path, cache=tmp_path / "cache")
    assert again.groups.hash == data.groups.hash
    assert again.notes == data.notes


MEASURE = """
import re, sys, threading, time
from pathlib import Path
from tandem.data.chat import encode_groups
from tandem.data.formats import read_data
from vocabularies import CHATML, byte_bpe

peak = 0

def watch():
    global peak
    while True:
        found = re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())
        peak = max(peak, int(found[1]) // 1024)
        time.sleep(0.02)

if __name__ == "__main__":
    threading.Thread(target=watch, daemon=True).start()
    cache = Path(sys.argv[2])
    start = time.time()
    data = read_data(sys.argv[1], cache=cache)
    middle = time.time()
    out = encode_groups(data.groups, byte_bpe(CHATML), max_length=4096, workers=2, cache=cache)
    print(len(out.groups), peak, round(middle - start), round(time.time() - middle))
"""


@pytest.mark.slow
def test_a_hundred_thousand_pairs_stay_in_bounded_memory(tmp_path: Path):
    """Read and encode 10,000 and 100,000 pairs (about 7 and 70 MB), each in a fresh process.

    Ten times the data may cost some bookkeeping (a hash a row), never ten times the memory. Pages
    of memory-mapped files do not count: the kernel takes them back when it needs them.
    """
    import os
    import subprocess
    import sys

    script = tmp_path / "measure.py"
    script.write_text(MEASURE)
    peaks = {}
    for n in (10_000, 100_000):
        path = many(tmp_path / f"{n}.jsonl", n)
        done = subprocess.run(
            [sys.executable, script, path, tmp_path / "cache"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        kept, peaks[n], *seconds = map(int, done.stdout.split())
        assert kept == n
        print(f"{n} pairs: peak {peaks[n]} MiB, read and encode {seconds} s")
    assert peaks[100_000] < 600
    assert peaks[100_000] < 2 * peaks[10_000]


def test_reading_and_checking_load_no_torch():
    import subprocess
    import sys

    script = (
        "import sys, tandem.data.chat, tandem.data.check.check; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_write_then_read_through_each_kind(tmp_path: Path):
    groups = read_data(written(tmp_path, ".jsonl")).groups
    for kind in (".jsonl", ".jsonl.gz", ".parquet"):
        assert write_data(groups, tmp_path / f"out{kind}", "preference").rows == 20
        assert read_data(tmp_path / f"out{kind}").groups.hash == groups.hash

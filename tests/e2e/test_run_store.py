"""`tandem run` with its folder, its data and its model in a store."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest
from test_command_line import FAST, save_model, save_pairs

from tandem.runs.records import read_records

pytestmark = pytest.mark.slow


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """An address, and what its driver finds in the environment."""
    if request.param == "file":
        yield f"file://{tmp_path}/store/run", {}
        return
    pytest.importorskip("s3fs", reason="pip install s3fs")
    server: Any = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    made = server.ThreadedMotoServer("127.0.0.1", 0)
    made.start()
    host, port = made.get_host_and_port()
    keys = {
        "AWS_ACCESS_KEY_ID": "canary-id",
        "AWS_SECRET_ACCESS_KEY": "canary-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}",
    }
    import s3fs

    files = s3fs.S3FileSystem(
        key="canary-id", secret="canary-secret", endpoint_url=keys["AWS_ENDPOINT_URL"]
    )
    if not files.exists("bucket"):  # moto keeps it for all of a process
        files.mkdir("bucket")
    yield "s3://bucket/runs/dpo", keys
    made.stop()


def _start(command: list[str], more: dict[str, str]) -> subprocess.Popen[bytes]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_killed_and_moved_it_ends_in_the_same_weights(
    store: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """kill -9 when a stage has begun, then the folder is deleted: the store alone is left."""
    url, keys = store
    at = [f"--model={save_model(tmp_path / 'model')}", f"--data={save_pairs(tmp_path / 'p.jsonl')}"]
    command = [sys.executable, "-m", "tandem", "run", "dpo", *at, *FAST]
    calm, out = tmp_path / "calm", tmp_path / "out"
    with _start([*command, f"--out={calm}"], {}) as process:
        assert process.wait(300) == 0, process.stderr and process.stderr.read()
    moved = [*command, f"--out={out}", f"--store={url}", "--machine.save_seconds=0.2"]
    for stage in ("02-", "05-"):
        with _start(moved, keys) as victim:
            end = time.monotonic() + 120
            while not list(out.glob(f"{stage}*")) and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.5)
            victim.send_signal(signal.SIGKILL)
        shutil.rmtree(out)
    with _start(moved, keys) as process:
        told, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert b"files came from" in told
    assert b"kept" in told + err
    for record in read_records(calm):
        weights = record.folder / "artifact" / "model.safetensors"
        if weights.exists():
            twin = out / record.folder.name / "artifact" / "model.safetensors"
            assert twin.read_bytes() == weights.read_bytes(), record.folder.name
    assert b"canary" not in told + err
    for file in out.rglob("*"):
        assert not file.is_file() or b"canary-secret" not in file.read_bytes(), file


def test_data_and_model_come_from_a_store(
    store: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are those of a run that read them from the disk."""
    url, keys = store
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    model, pairs = save_model(tmp_path / "model"), save_pairs(tmp_path / "pairs.jsonl")
    files, root = fsspec.core.url_to_fs(f"{url}/given")
    files.makedirs(root, exist_ok=True)
    files.put(str(model), f"{root}/model", recursive=True)
    files.put_file(str(pairs), f"{root}/pairs.jsonl")
    weights: list[bytes] = []
    for place in (f"{url}/given", str(tmp_path)):
        out = tmp_path / f"out-{len(weights)}"
        at = [f"--model={place}/model", f"--data={place}/pairs.jsonl", f"--out={out}"]
        command = [sys.executable, "-m", "tandem", "run", "dpo", *at, *FAST]
        with _start(command, {**keys, "TANDEM_CACHE": str(tmp_path / "cache")}) as process:
            _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert b"canary" not in err
        [dpo] = out.glob("*-dpo/artifact/model.safetensors")
        weights.append(dpo.read_bytes())
    assert weights[0] == weights[1]

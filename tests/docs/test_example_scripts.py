"""The scripts in `examples` run as they stand, and do what they say."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tandem.data.formats import read_data

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(
    path.stem
    for path in EXAMPLES.glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8") and path.stem != "dpo_in_one_file"
)


@pytest.fixture(autouse=True)
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))


def test_there_is_one_for_each_thing_that_people_come_for():
    assert SCRIPTS == [
        "align_your_pairs", "export_a_model", "grpo_with_your_reward", "kto_on_thumbs",
        "label_with_a_reasoning_judge", "reward_over_http",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_imports_what_there_is(name: str, monkeypatch: pytest.MonkeyPatch, capsys):
    module = importlib.import_module(name)
    assert re.search(rf"python examples/{name}\.py", module.__doc__ or "")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        module.main()
    assert "--model" in capsys.readouterr().out


def test_the_data_of_the_examples_are_what_they_are_called(tmp_path: Path):
    data = importlib.import_module("example_data")
    pairs = read_data(data.write_pairs(tmp_path / "pairs.jsonl", 6))
    assert (pairs.format, pairs.notes.kept) == ("preference", 6)
    thumbs = read_data(data.write_thumbs(tmp_path / "thumbs.jsonl", 6))
    assert [float(g.scores[0]) for g in thumbs.groups if g.scores is not None] == [1.0, 0.0] * 3


def test_the_files_for_clusters_are_well_formed():
    """What a cluster alone can run is read; the Ray in it is the one that was tested."""
    subprocess.run(["bash", "-n", str(EXAMPLES / "cluster/slurm.sh")], check=True, timeout=10)
    cluster = yaml.safe_load((EXAMPLES / "cluster/kuberay.yaml").read_text(encoding="utf-8"))
    pins = (EXAMPLES.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={cluster['spec']['rayVersion']}" in pins
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    assert all(g["template"]["spec"]["containers"][0]["image"] == "IMAGE" for g in groups)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    module = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [name, "--out", str(tmp_path / "out")])
    found = module.main()
    said = capsys.readouterr().out
    if name == "align_your_pairs":
        right = re.search(r"^DPO +\S+ \[.*?\] +(\d\.\d+)", found, flags=re.M)
        assert right is not None, found
        assert float(right[1]) > 0.6
    elif name == "kto_on_thumbs":
        assert float(re.findall(r"in (\d+\.\d)%", found)[0]) > 60
    elif name in ("reward_over_http", "grpo_with_your_reward"):
        assert found[1] > found[0]
    elif name == "label_with_a_reasoning_judge":
        assert re.search(r": 0 of \d+ unreadable", said)
        assert found > 0.5
    else:
        config = json.loads((found / "config.json").read_text())
        assert config["dtype"] == "bfloat16"
        assert (found / "README.md").exists()

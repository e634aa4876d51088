"""Methods that play, from the command line to their tables, on people whose preference circles."""

from __future__ import annotations

import json

import pytest

from tandem import cli
from tandem.runs.records import read_records

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

SMALL = [
    "--task", "micro-tastes", "--sizes.demonstrations=24", "--sizes.pairs=32",
    "--sizes.held_out=12", "--sizes.prompts=16", "--sizes.evaluation=12", "--sft.epochs=1",
]  # fmt: skip
PLAY = ["prompts=4", "rounds=2", "n=2", "minibatch=4"]


@pytest.mark.parametrize(
    ("method", "judge"),
    [
        ("nash_md", "cyclic"),
        ("nash_md", "pairs"),
        ("nash_ema", "reward"),
        ("self_play", "people"),
        ("past_play", "cyclic"),
        ("best_response", "people"),
        ("ipo_md", "cyclic"),
        ("sppo", "pairs"),
    ],
)
def test_a_policy_learns_by_play(method: str, judge: str, tmp_path, capsys):
    own = [f"--{method}.{setting}" for setting in (*PLAY, f"judge={judge}")]
    out = tmp_path / "run"
    assert cli.main(["run", method, *SMALL, *own, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "annotator win vs SFT" in told or "gold_rm win vs SFT" in told
    stages = {r.name for r in read_records(out)}
    assert {"ipo_md": "ipo-md", "sppo": "sppo"}.get(method, "nash") in stages
    assert ("cyclic_preference" in stages) == (judge == "cyclic")
    rounds = [
        json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()
        if '"round"' in line
    ]  # fmt: skip
    assert any(0 <= r.get("proxy", -1) <= 1 for r in rounds)


def test_a_cyclic_model_is_laid_beside_the_reward(tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["run", "cyclic_preference", *SMALL, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "cyclic less Bradley-Terry" in told
    assert "exact" in told
    fitted = next(out.glob("*-cyclic_preference/artifact"))
    data = tmp_path / "judged.jsonl"
    rows = [
        {"prompt": f"say {k}", "chosen": "lisa will move .", "rejected": "i sold ."}
        for k in range(4)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["eval", "reward", str(fitted), "--data", str(data)]) == 0
    assert "held-out judgments" in capsys.readouterr().out

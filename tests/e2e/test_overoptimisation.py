"""The over-optimisation experiment: its arithmetic on known curves, and a small run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import levers
import overoptimisation
import turnover
from tandem.tasks import Sizes

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
TINY = levers.Plan(
    sizes=Sizes(demonstrations=32, pairs=16, held_out=16, prompts=12, evaluation=8),
    rounds=3, prompts=8, minibatch=4, lr=3e-3, every=1, pool=4, pooled=4,
)  # fmt: skip
P = 40


def climb(seed: int, alpha: float, beta: float, lift: float = 0.0) -> list[dict[str, Any]]:
    """Truth follows Gao's form exactly in the mean; each prompt has an offset of its own."""
    offset = np.random.default_rng(seed).normal(size=P)
    offset -= offset.mean()
    rows = []
    for k in range(9):
        kl = 0.5 * k
        d = math.sqrt(kl)
        gold = d * (alpha - beta * math.log(d)) if d else 0.0
        columns = {"proxy": d, "single": d, "held_out": gold, "truth": gold + lift * (k > 0)}
        rows.append(
            {"round": 2 * k, "kl": np.full(P, kl), "length": np.full(P, 12.0)}
            | {name: x + offset for name, x in columns.items()}
        )
    return rows


def pool(seed: int) -> dict[str, Any]:
    """Truth of best-of-n is d (1 - d/3) in the mean: its peak is at d = 1.5, its height 0.75."""
    offset = np.random.default_rng(seed).normal(size=P)
    ns = [1, 2, 4, 8, 16, 32, 64]
    d = np.array([math.sqrt(math.log(n) - (n - 1) / n) for n in ns])[:, None]
    gold = d * (1 - d / 3) + offset - offset.mean()
    rows = {"proxy": d + 0 * offset, "truth": gold, "held_out": gold}
    return {
        "n": ns,
        **{name: {k: v.tolist() for k, v in rows.items()} for name in ("single", "mean")},
    }


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    climbs = [{"free": climb(s, 0.5, 1.0), "worst": climb(s, 0.5, 1.0, 0.3)} for s in range(3)]
    return turnover.numbers(climbs, [pool(s) for s in range(3)])


def test_peaks_are_those_of_the_forms(found: dict[str, Any]):
    """alpha = .5, beta = 1: e^(alpha/beta - 1) = .607 in sqrt(KL), height beta times that."""
    fit = found["fits"]["free"]
    assert fit["peak"] == pytest.approx([math.exp(-0.5)] * 3, rel=1e-3)
    assert fit["height"] == pytest.approx([math.exp(-0.5)] * 3, rel=1e-3)
    assert fit["mean_curve"]["peak"] == pytest.approx(math.exp(-0.5), rel=1e-3)
    assert fit["peak_over_seeds"]["seeds"] == 3
    assert fit["best_kl"] == [0.5] * 3
    assert found["best_of_n"]["single"]["fit"]["peak"] == pytest.approx([1.5] * 3, rel=1e-3)
    assert found["best_of_n"]["single"]["fit"]["height"] == pytest.approx([0.75] * 3, rel=1e-3)


def test_a_curve_that_never_turns_over_has_no_peak():
    kl = [[0.0, 1.0, 4.0, 9.0]] * 2
    fit = turnover.turnovers(kl, [[0.0, 1.0, 2.0, 3.5]] * 2, "bon")
    assert fit["peak"] == [None, None]
    assert fit["peak_over_seeds"] is None


def test_differences_are_paired_and_the_round_is_chosen_on_the_other_half(found: dict[str, Any]):
    """The lever adds .3 to truth from the first round on: at the end and at the chosen round."""
    rows = {row["lever"]: row for row in found["table"]}
    assert list(rows) == ["SFT", "free", "worst"]
    for column in ("against_free", "stopped_against_stopped"):
        assert rows["worst"][column]["mean"] == pytest.approx(0.3)
        assert rows["free"][column] is None
    assert not rows["worst"]["against_free"]["resolved"], "equal everywhere: no variance is seen"
    assert all(pair == [2, 2] for pair in rows["free"]["chosen_rounds"])
    low = math.sqrt(4) * (0.5 - math.log(2))
    high = math.sqrt(0.5) * (0.5 - math.log(math.sqrt(0.5)))
    assert rows["free"]["stopped_against_free"]["mean"] == pytest.approx(high - low)
    assert rows["SFT"]["against_free"]["mean"] == pytest.approx(-low)


def test_the_half_that_chooses_does_not_judge():
    """Even prompts are best after round 1, odd ones after 2: each is judged at the other's."""
    even = np.arange(P) % 2 == 0
    rows = [
        {"round": k, "held_out": np.where(even, k == 1, k == 2), "truth": np.full(P, 10.0 * k)}
        for k in range(3)
    ]
    worth, places = turnover.chosen(rows)
    assert places == [2, 1]
    assert (worth[even] == 20).all()
    assert (worth[~even] == 10).all()


@pytest.mark.slow
def test_a_small_run_is_resumed_and_becomes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Two seeds by two calls; the second call of a seed does nothing again."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(levers, "Plan", lambda: TINY)
    kept = {k: levers.LEVERS[k] for k in ("free", "worst", "debiased")}
    monkeypatch.setattr(levers, "LEVERS", kept)
    words = ["--seeds", "2", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert overoptimisation.main([*words, "--only", "0"]) == 0
    assert "seeds [1] are not done" in capsys.readouterr().err
    seconds = [r.seconds for r in levers.read_records(tmp_path / "runs" / "seed-0")]
    assert overoptimisation.main(words) == 0
    assert [r.seconds for r in levers.read_records(tmp_path / "runs" / "seed-0")] == seconds
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {f"overoptimisation.{ext}" for ext in ("json", "md", "parquet", "svg")}
    told = json.loads((tmp_path / "out" / "overoptimisation.json").read_text())
    assert [row["lever"] for row in told["table"]] == ["SFT", *kept]
    assert np.shape(told["curves"]["free"]["truth"]) == (2, 4)
    free = told["curves"]["free"]
    assert free["proxy"] == free["single"]
    assert told["curves"]["debiased"]["proxy"] != told["curves"]["debiased"]["single"]
    assert np.shape(told["best_of_n"]["worst"]["truth"]) == (2, 3)
    proxy = np.array(told["best_of_n"]["single"]["proxy"])
    assert (np.diff(proxy) >= 0).all()
    assert "4 rewards, worst" in (tmp_path / "out" / "overoptimisation.md").read_text()


@pytest.mark.skipif(not (RESULTS / "overoptimisation.json").exists(), reason="not run yet")
def test_the_page_is_made_from_its_numbers(tmp_path: Path):
    found = json.loads((RESULTS / "overoptimisation.json").read_text())
    assert overoptimisation.page(found) == (RESULTS / "overoptimisation.md").read_text()
    overoptimisation.draw(found, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == (RESULTS / "overoptimisation.svg").read_text()

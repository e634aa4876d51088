"""Margins are meant: read when asked, in one range, and of no neighbour's doing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from climbing import FP32, Heard
from tabular import f64
from tandem.batching.batch import Outputs, Pairs
from tandem.batching.packing import pack_groups
from tandem.data import formats
from tandem.data.groups import Groups
from tandem.data.record import Preference
from tandem.errors import ConfigError, DataError
from tandem.methods import dpo, reward
from tandem.methods.reward import (
    RewardConfig,
    largest_margin,
    preference_terms,
    with_scaled_margins,
)
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.runs.events import Silent
from tandem.training.optim import Optim
from tiny import folder, group

CALM = Optim(lr=3e-3, schedule="linear", warmup=0.2, eps=1e-3)


def optimum(cfg: RewardConfig, groups: Groups, p: float) -> float:
    """Return the difference of rewards at which the first pair's slope is 0, by bisection."""
    unit = largest_margin(groups, "reward", Silent()) if cfg.margins else None
    batch = pack_groups([groups[0]])
    assert batch.pairs is not None
    batch = replace(batch, pairs=replace(batch.pairs, p=f64(p)))
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        score = f64(middle, 0).requires_grad_(True)
        preference_terms(Outputs(score=score), batch, cfg, unit).loss.sum().backward()
        assert score.grad is not None
        low, high = (middle, high) if score.grad[0] < 0 else (low, middle)
    return low


def scored(tmp_path: Path, *scores: tuple[float, float]) -> Groups:
    """Read a file of scored answers, and put tokens behind them."""
    rows = [
        {"prompt": f"q{i}", "completions": ["a", "b"], "scores": s} for i, s in enumerate(scores)
    ]
    path = tmp_path / "scored.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    rng = np.random.default_rng(0)
    read = formats.read_data(path).groups
    return Groups.of(
        replace(group(g.id, rng, 3, (2, 3)), preferences=g.preferences, scores=g.scores)
        for g in read
    )


def test_scores_become_margins_only_when_asked(tmp_path: Path):
    """9 against 2, preferred by three of four: ln 3 = 1.1; with margins 1 more; never 7 more."""
    data = scored(tmp_path, (9.0, 2.0), (5.0, 4.0))
    assert [v.margin for g in data for v in g.preferences] == [7.0, 1.0]
    assert optimum(RewardConfig(), data, 0.75) == pytest.approx(math.log(3), abs=1e-6)
    assert optimum(RewardConfig(margins=True), data, 0.75) == pytest.approx(
        1 + math.log(3), abs=1e-6
    )


@pytest.mark.parametrize("scale", [1.0, 10.0, 0.1])
def test_margins_do_not_hang_on_the_scale_of_scores(tmp_path: Path, scale: float):
    data = scored(tmp_path, (9 * scale, 2 * scale), (5 * scale, 4 * scale))
    heard = Heard()
    unit = largest_margin(data, "reward", heard)
    batch = pack_groups(list(data))
    assert batch.pairs is not None
    found = with_scaled_margins(batch.pairs, unit).margin
    torch.testing.assert_close(found, torch.tensor([1.0, 1 / 7]))
    assert with_scaled_margins(batch.pairs, None).margin is None
    (said,) = heard.of("margins")
    assert (said["pairs"], said["of"]) == (2, 2)


@pytest.mark.parametrize(
    ("cfg", "method"),
    [(RewardConfig(margins=True), reward), (dpo.DPOConfig(margins=True), dpo)],
    ids=["reward", "dpo"],
)
def test_margins_that_nobody_gave_are_refused_before_training(
    cfg: Any, method: Any, tmp_path: Path
):
    rng = np.random.default_rng(0)
    data = Groups.of([replace(group("a", rng, 3, (2, 3)), preferences=(Preference(0, 1),))])
    ctx = StageContext.at(tmp_path, machine=FP32)
    with pytest.raises(DataError, match=r"margins = true") as caught:
        method.fit(Checkpoint(folder(tmp_path / "init")), data, cfg, ctx=ctx)
    assert "none of 1 comparisons" in caught.value.what


@pytest.mark.parametrize("loss", ["ipo", "ipo_sum", "sppo_hard"])
def test_margins_with_a_fixed_target_are_refused_with_the_settings(loss: str):
    with pytest.raises(ConfigError, match=r"dpo\.margins") as caught:
        dpo.DPOConfig(loss=loss, margins=True)
    assert "sigmoid" in caught.value.do
    assert dpo.DPOConfig(loss="simpo", margins=True).margins


def ragged_data(n: int = 8) -> Groups:
    """Pairs of which every other one has a margin."""
    rng = np.random.default_rng(4)
    groups = [group(str(i), rng, 4, (int(rng.integers(2, 9)), 5)) for i in range(n)]
    return Groups.of(
        replace(g, preferences=(Preference(0, 1, 0.8, 2.0 * i if i % 2 else None),))
        for i, g in enumerate(groups)
    )


def fitted(method: Any, cfg: Any, place: Path, init: Path, tokens: int) -> torch.Tensor:
    """Fit with micro-batches of so many tokens; return all weights end to end."""
    ctx = StageContext.at(place, seed=Seed(5), machine=replace(FP32, tokens=tokens))
    made = method.fit(Checkpoint(init), ragged_data(), cfg, ctx=ctx)
    return flat(made.path, scalar=method is reward)


def flat(path: Path, scalar: bool = False) -> torch.Tensor:
    weights = load_file(path / "model.safetensors")
    return torch.cat([weights[k].flatten() for k in sorted(weights) if scalar or "score" not in k])


@pytest.mark.parametrize("method", [reward, dpo], ids=["reward", "dpo"])
def test_a_fit_on_some_margins_is_the_same_however_it_is_cut(method: Any, tmp_path: Path):
    """One micro-batch, or one a group; and margins do change the fit."""
    init = folder(tmp_path / "init")
    kind = reward.RewardConfig if method is reward else dpo.DPOConfig
    cfg = kind(epochs=2, batch=4, optim=CALM, margins=True)
    whole, cut, plain = (
        fitted(method, c, tmp_path / name, init, tokens)
        for name, c, tokens in (
            ("whole", cfg, 10**6), ("cut", cfg, 1), ("plain", replace(cfg, margins=False), 10**6),
        )
    )  # fmt: skip
    moved = (whole - plain).norm()
    assert moved > 0
    assert (cut - whole).norm() < 1e-2 * moved


def test_a_pair_without_a_margin_is_beside_one_with(tmp_path: Path):
    """Its margin is 0, and the other's is its own: none is switched off."""
    rng = np.random.default_rng(0)
    two = [
        replace(group(str(i), rng, 3, (2, 2)), preferences=(Preference(0, 1, 1.0, m),))
        for i, m in enumerate((None, 0.7))
    ]
    pairs = pack_groups(two).pairs
    assert pairs is not None
    torch.testing.assert_close(pairs.margin, torch.tensor([0.0, 0.7]))
    alone = pack_groups(two[:1]).pairs
    assert isinstance(alone, Pairs)
    assert alone.margin is None


def test_groups_without_scores_do_not_take_others_away():
    rng = np.random.default_rng(0)
    two = [
        replace(group("a", rng, 3, (2, 2)), scores=np.array([1.0, 0.0])),
        group("b", rng, 3, (4,)),
    ]
    batch = pack_groups(two)
    assert batch.scores is not None
    assert batch.scores[:2].tolist() == [1.0, 0.0]
    assert batch.scores[2:].isnan().all()
    assert pack_groups(two[1:]).scores is None

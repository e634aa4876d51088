"""Multi-view learning inside the reward's fit: what it leaves alone, and how a step is made."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from climbing import FP32, Heard
from tandem.batching.batch import Batch, Outputs, Terms
from tandem.data.groups import Groups
from tandem.errors import ConfigError, DataError
from tandem.methods import reward
from tandem.models.packed import PackedModel
from tandem.objectives import other_prompt
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.loop import sum_terms
from tandem.training.multiview import MultiViewConfig, MultiViewHead, MultiViewSource
from tandem.training.optim import Optim
from tiny import close, folder, group, labelled, lm

SMALL = MultiViewConfig(z=4, hidden=16)
CFG = reward.RewardConfig(epochs=2, batch=4, optim=Optim(lr=3e-3, warmup=0.2, eps=1e-3))
OBJECTIVES = ("mib", "infomax", "multiview-infomax", "contrastive")


def compared(n: int = 10) -> Groups:
    rng = np.random.default_rng(0)
    rows = [group(f"d{i}", rng, int(rng.integers(2, 9)), rng.integers(2, 12, 2)) for i in range(n)]
    return Groups.of(labelled(g, rng) for g in rows)


def sampled(n: int = 7, k: int = 3) -> Groups:
    rng = np.random.default_rng(1)
    return Groups.of(
        group(f"p{i}", rng, int(rng.integers(3, 9)), rng.integers(2, 12, k)) for i in range(n)
    )


def fitted(
    place: Path, init: Path, tokens: int = 16384, heard: Heard | None = None, **more: Any
) -> Checkpoint:
    machine = replace(FP32, tokens=tokens)
    ctx = StageContext.at(place, seed=Seed(5), events=heard or Heard(), machine=machine)
    given = {"data": compared(), "cfg": CFG, "uml": SMALL} | more
    return reward.fit(Checkpoint(init), given.pop("data"), given.pop("cfg"), ctx=ctx, **given)


def source(tokens: int = 16384, size: int = 4, total: int = 6, **more: Any) -> MultiViewSource:
    return MultiViewSource(
        sampled(**more), size=size, total=total, cfg=SMALL, seed=Seed(3), layout="rows",
        tokens=tokens,
    )  # fmt: skip


def weights(checkpoint: Checkpoint) -> bytes:
    return (checkpoint.path / "model.safetensors").read_bytes()


def few(groups: Groups, first: int) -> Groups:
    """The groups in six tokens, from `first` on, and the end."""

    def of(ids: np.ndarray) -> np.ndarray:
        return np.where(ids == 2, ids, first + ids % 6).astype(np.int32)

    return Groups.of(
        replace(
            g,
            prompt=replace(g.prompt, tokens=of(g.prompt.tokens)),
            completions=tuple(replace(c, tokens=of(c.tokens)) for c in g.completions),
        )
        for g in groups
    )


# --- what it leaves alone ------------------------------------------------------------------------


def test_without_weight_and_pairs_the_new_reward_is_the_old_one_bit_for_bit(tmp_path: Path):
    """METHODS section 9: lambda = 0 and D_hat empty make line 4 of Algorithm 1 its line 2."""
    init = folder(tmp_path / "init")
    plain = fitted(tmp_path / "r", init)
    again = fitted(tmp_path / "r_hat", init, data=compared() + Groups.of(()), views=sampled())
    assert weights(again) == weights(plain)
    assert again.hash == plain.hash


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_is_saved_is_a_plain_reward_model(objective: Any, tmp_path: Path):
    init, heard = folder(tmp_path / "init"), Heard()
    plain = fitted(tmp_path / "plain", init)
    uml = replace(SMALL, objective=objective)
    moved = fitted(tmp_path / "uml", init, views=sampled(), lam=0.5, uml=uml, heard=heard)
    _, found = hf.AutoModelForSequenceClassification.from_pretrained(
        moved.path, output_loading_info=True
    )
    assert not any(found[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert weights(moved) != weights(plain)
    steps = heard.of("train")
    assert len(steps) == 6  # 10 comparisons by 4, twice: as many as without views
    assert all(math.isfinite(line["multiview_loss"]) for line in steps)


def test_the_loss_is_weighed_by_lambda(tmp_path: Path):
    """The first step's term at lambda = .5 is half of that at 1: the same views, draws, weights."""
    init = folder(tmp_path / "init")
    ears = {lam: Heard() for lam in (0.5, 1.0)}
    for lam, heard in ears.items():
        fitted(tmp_path / str(lam), init, views=sampled(), lam=lam, heard=heard)
    half, whole = (heard.of("train")[0]["multiview_loss"] for heard in ears.values())
    assert half == pytest.approx(whole / 2, rel=1e-6)


def test_a_killed_fit_resumes_bit_for_bit(tmp_path: Path):
    init = folder(tmp_path / "init")
    calm = fitted(tmp_path / "calm", init, views=sampled(), lam=0.5)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "torn", init, views=sampled(), lam=0.5, heard=Heard(dies_at=3))
    torn = fitted(tmp_path / "torn", init, views=sampled(), lam=0.5)
    assert weights(torn) == weights(calm)


# --- a step --------------------------------------------------------------------------------------


def gradients(tokens: int, uml: MultiViewConfig) -> torch.Tensor:
    """Every weight's gradient of one step of views, cut into micro-batches of so many tokens."""
    trunk = PackedModel(lm(auto=hf.AutoModelForSequenceClassification, num_labels=1))
    net = trunk.heads["views"] = MultiViewHead(32, uml, Seed(1))
    assert isinstance(net, MultiViewHead)
    micro = source(tokens).batches(0)
    assert (len(micro) > 1) == (tokens < 100)

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        return {"multiview": net.terms(out, batch)}

    count = sum(loss(Outputs(), batch)["multiview"].weight.sum() for batch in micro)
    assert int(count) == 4
    for batch in micro:
        sum_terms(loss(trunk(batch.tokens, features=True), batch), {"multiview": count}).backward()
    score: Any = trunk.lm
    assert score.score.weight.grad is None  # the scalar head is the comparisons' business
    return torch.cat(
        [p.grad.flatten() for n, p in trunk.named_parameters() if n != "lm.score.weight"]  # type: ignore[union-attr]
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_is_the_same_however_it_is_cut(objective: Any):
    """A roll inside each micro-batch would pair other prompts; in one of a single prompt, none."""
    uml = replace(SMALL, objective=objective)
    close(gradients(1, uml), gradients(10**6, uml))


def test_a_negative_is_never_of_the_own_prompt():
    """The answer in front belongs to the prompt before, in a circle over the step."""
    for step in range(6):
        whole, cut = source().batches(step), source(tokens=1).batches(step)
        (batch,) = whole
        group = batch.group.tolist()
        first, second = [group[0], *group[1::2]], group[2::2]
        assert first[1:] == second
        assert all(a != b for a, b in zip(first[:-1], second, strict=True))
        own = torch.tensor(second)
        assert own[other_prompt(own)].tolist() == first[:-1]
        assert [b.group.tolist() for b in cut] == [
            [own[k - 1], own[k], own[k]] for k in range(len(own))
        ]


def test_two_views_are_drawn_without_replacement_and_anew_each_epoch():
    P, seen = sampled(n=4, k=5), []
    views = MultiViewSource(
        P, size=4, total=9, cfg=SMALL, seed=Seed(3), layout="rows", tokens=10**6
    )  # fmt: skip
    texts = {g.id: [c.text for c in g.completions] for g in P}
    for step in range(9):
        pairs = {}
        for g in (views._two(g, step) for g in P):
            a, b = (texts[g.id].index(c.text) for c in g.completions)
            assert a != b
            pairs[g.id] = {a, b}
        seen.append(pairs)
    assert len({tuple(sorted(p["p0"])) for p in seen}) > 3


def test_an_epoch_reads_every_prompt_once():
    views = MultiViewSource(
        sampled(n=6), size=3, total=4, cfg=SMALL, seed=Seed(3), layout="rows", tokens=10**6
    )  # fmt: skip
    steps = [batch for micro in views.steps(torch.nn.Identity()) for batch in micro]
    ids = [tuple(b.tokens.ids[1:, 0].tolist()) for b in steps]
    assert len(steps) == 4
    assert ids[:2] != ids[2:]
    firsts = [{tuple(row) for row in b.tokens.ids[1:, :3].tolist()} for b in steps]
    assert len(firsts[0] | firsts[1]) == len(firsts[2] | firsts[3]) == 6


def test_a_repeated_prompt_counts_once():
    twice = Groups.of([*sampled(n=3), *sampled(n=3)])
    views = MultiViewSource(
        twice, size=8, total=1, cfg=SMALL, seed=Seed(), layout="rows", tokens=99999
    )
    assert len(views.groups) == views.size == 3


@pytest.mark.parametrize(("n", "k", "what"), [(1, 3, "1 different prompts"), (4, 1, "`p0` has 1")])
def test_what_gives_no_views_is_refused(n: int, k: int, what: str):
    with pytest.raises(DataError, match=what):
        source(n=n, k=k)


def test_a_weight_needs_views(tmp_path: Path):
    init = folder(tmp_path / "init")
    for lam, views in ((0.5, None), (-0.1, sampled())):
        with pytest.raises(ConfigError, match="lam"):
            fitted(tmp_path / str(lam), init, views=views, lam=lam)


def test_the_weight_of_the_skl_follows_its_schedule():
    """Constant 1 in RLP; with a hold of .2 and a warm-up of .3, of 100 steps: from 20 to 50."""
    assert [MultiViewConfig().skl_weight(k, 100) for k in (0, 99)] == [1, 1]
    rising = MultiViewConfig(hold=0.2, warmup=0.3)
    got = [rising.skl_weight(k, 100) for k in (0, 20, 35, 50, 99)]
    assert got == pytest.approx([1e-3, 1e-3, math.sqrt(1e-3), 1, 1])
    assert MultiViewConfig(objective="multiview-infomax").skl_weight(0, 100) == 0
    with pytest.raises(ConfigError, match="warmup"):
        MultiViewConfig(hold=0.8, warmup=0.3)


def test_the_rows_of_comparisons_and_of_views_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    init = folder(tmp_path / "lm")
    data, views = few(compared(), 3), few(sampled(), 12)
    told = fitted(tmp_path / "told", init, data=data, views=views, lam=0.5)
    monkeypatch.setattr("tandem.training.loop.train_only_rows", lambda *_: nullcontext())
    whole = fitted(tmp_path / "whole", init, data=data, views=views, lam=0.5)
    assert weights(told) == weights(whole) != (init / "model.safetensors").read_bytes()

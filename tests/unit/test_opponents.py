"""Opponents: what they draw; a killed run goes on alike, and the policy loses nothing to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from climbing import FP32, SHORT, Heard, prompts, somewhere
from tandem.data.record import FloatArray, Group, Preference
from tandem.engines import Sampling
from tandem.errors import ConfigError, ModelError
from tandem.judges.open_preference import GroupPairs, PairProbability
from tandem.machine import Lora
from tandem.methods import best_response, nash_ema, nash_md, past_play, self_play
from tandem.models.opening import open_policy
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.opponents import (
    AveragedOpponent,
    MixtureOpponent,
    PastOpponent,
    Players,
    ReferenceOpponent,
    lent_weights,
    trained_weights,
)
from tandem.training.optim import Optim
from tandem.training.validation import Validation
from tiny import folder

LEARN = {"prompts": 4, "n": 3, "rivals": 2, "rounds": 3, "minibatch": 2, "tau": 0.05}
OPTIM = Optim(lr=3e-3, schedule="linear", warmup=0.0, eps=1e-5)


@dataclass(frozen=True)
class Shorter:
    """Prefers the answer with fewer early letters, softly, and turns on the longest words."""

    name: str = "shorter"

    def open_pairs(self) -> PairProbability:
        def probability(asked: Iterable[GroupPairs]) -> Iterator[FloatArray]:
            for group, pairs in asked:
                r = np.array([sum(x < "n" for x in c.text) for c in group.completions], float)
                yield np.array([1 / (1 + np.exp(r[i] - r[j])) for i, j in pairs])

        return probability

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for group in groups:
            (p,) = self.open_pairs()([(group, [(0, 1)])])
            yield replace(group, preferences=(Preference(0, 1, float(p[0])),))


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("opponents") / "init")


def players(init: Path, **more: Any) -> Players:
    policy, reference = (open_policy(init, FP32, train=k == 0) for k in (0, 1))
    return Players(policy, reference, Checkpoint(init), SHORT, somewhere(Heard()), **more)


def move(module: torch.nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))


def texts(groups: list[Group]) -> list[list[str]]:
    return [[c.text for c in g.completions] for g in groups]


def asked(init: Path) -> list[Group]:
    return list(prompts(init, 5))


def test_a_mixture_with_nothing_is_the_policy_and_with_everything_the_reference(init: Path):
    torch.manual_seed(0)
    here = players(init)
    move(here.policy, 0.05)
    mine, theirs = (MixtureOpponent(here, share).draw(asked(init), 3) for share in (0.0, 1.0))
    frozen = ReferenceOpponent(here).draw(asked(init), 3)
    assert texts(theirs) == texts(frozen) != texts(mine)
    between = MixtureOpponent(here, 0.5).draw(asked(init), 3)
    assert texts(between) not in (texts(mine), texts(theirs))


def test_rounds_and_places_have_draws_of_their_own(init: Path):
    here = players(init)
    opponent = ReferenceOpponent(here)
    twice = [asked(init)[0]] * 2
    first, second = (opponent.draw(twice, 4) for _ in range(2))
    assert texts(first)[0] != texts(first)[1]
    assert texts(first) != texts(second)
    assert [g.id for g in first] == [g.id for g in twice]


def test_an_average_of_decay_zero_is_the_policy_and_of_one_the_first(init: Path):
    torch.manual_seed(0)
    here = players(init)
    first = trained_weights(here.policy)
    now, stays, half = (AveragedOpponent(here, decay) for decay in (0.0, 1.0, 0.25))
    for opponent in (now, stays, half):
        opponent.draw(asked(init), 1)
    move(here.policy, 0.05)
    for opponent in (now, stays, half):
        opponent.draw(asked(init), 1)
    moved = trained_weights(here.policy)
    for name, x in moved.items():
        torch.testing.assert_close(now.average[name], x)
        torch.testing.assert_close(stays.average[name], first[name])
        torch.testing.assert_close(half.average[name], 0.25 * first[name] + 0.75 * x)


def test_lending_gives_back_to_the_bit_also_when_sampling_fails(init: Path):
    here = players(init)
    before = trained_weights(here.policy)
    other = {k: x + 1 for k, x in before.items()}

    def fail() -> None:
        with lent_weights(here.policy, other):
            assert all(torch.equal(x, other[k]) for k, x in trained_weights(here.policy).items())
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert all(torch.equal(x, before[k]) for k, x in trained_weights(here.policy).items())


def test_the_past_keeps_the_latest_and_draws_them_by_age(init: Path):
    torch.manual_seed(0)
    here = players(init)
    opponent = PastOpponent(here, keep=3, every=2, recency=0.5)
    for _ in range(8):
        opponent.draw(asked(init), 1)
        move(here.policy, 0.02)
    assert opponent.turns == [2, 4, 6]
    opponent.state_dict()
    assert len(list(opponent.folder.iterdir())) == 3
    counts = dict.fromkeys(opponent.turns, 0)
    for turn, places in opponent._assigned(7000):
        counts[turn] += len(places)
    np.testing.assert_allclose(
        [counts[t] / 7000 for t in (2, 4, 6)], [1 / 7, 2 / 7, 4 / 7], atol=0.03
    )


def test_with_adapters_only_adapters_are_kept(init: Path):
    machine = replace(FP32, lora=Lora(rank=2))
    policy = open_policy(init, machine, train=True, seed=Seed(0))
    reference = open_policy(init, FP32)
    here = Players(policy, reference, Checkpoint(init), SHORT, somewhere(Heard()))
    opponent = PastOpponent(here, keep=2, every=1, recency=1.0)
    opponent.draw(asked(init), 1)
    (file,) = opponent.folder.iterdir()
    assert all("lora" in name for name in load_file(file))


CONFIGS = [
    nash_md.NashMDConfig(share=0.25, optim=OPTIM, **LEARN),
    nash_ema.NashEMAConfig(decay=0.5, optim=OPTIM, **LEARN),
    past_play.PastPlayConfig(keep=2, optim=OPTIM, **LEARN),
    self_play.SelfPlayConfig(optim=OPTIM, **LEARN),
    best_response.BestResponseConfig(optim=OPTIM, **LEARN),
]


def played(
    cfg: Any, init: Path, place: Path, heard: Heard | None = None, **more: Any
) -> Checkpoint:
    ctx = StageContext.at(place, seed=Seed(5), events=heard or Heard(), machine=FP32)
    return nash_md.fit(
        Checkpoint(init), prompts(init, 6), Shorter(), cfg, sampling=SHORT, ctx=ctx, **more
    )


def weights(made: Checkpoint) -> dict[str, torch.Tensor]:
    return load_file(made.path / "model.safetensors")


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: type(c).__name__)
def test_a_killed_run_goes_on_to_the_same_policy(cfg: Any, init: Path, tmp_path: Path):
    """Killed in the middle of a round, with an average, a past and draws to remember."""
    whole = played(cfg, init, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        played(cfg, init, tmp_path / "killed", Heard(dies_at=3))
    again = played(cfg, init, tmp_path / "killed")
    assert all(torch.equal(x, weights(again)[k]) for k, x in weights(whole).items())


@pytest.mark.parametrize("cfg", CONFIGS[:1] + CONFIGS[3:4], ids=["mixture", "self"])
def test_it_learns_what_is_preferred(cfg: Any, init: Path, tmp_path: Path):
    """Against the reference's answers the trained policy wins more than half, by the judge."""
    heard = Heard()
    follow = Validation(prompts(init, 12, seed=3), every=20)
    long = replace(cfg, rounds=20, prompts=6, minibatch=6)
    played(long, init, tmp_path, heard, validation=follow)
    first, *_, last = (e["proxy"] for e in heard.of("watch"))
    assert first == pytest.approx(0.5, abs=0.08)
    assert last > first + 0.1


def test_self_play_needs_two_answers():
    with pytest.raises(ConfigError, match=r"self_play\.n = 1"):
        self_play.SelfPlayConfig(n=1)


def test_a_single_answer_has_one_half_for_its_baseline(init: Path, tmp_path: Path):
    """The paper's form: one answer, one rival."""
    cfg = replace(CONFIGS[0], n=1, rivals=1, rounds=1)
    assert played(cfg, init, tmp_path).path.exists()


def test_a_best_response_meets_the_policy_that_is_named(init: Path, tmp_path: Path):
    """Another frozen policy than the reference: other rivals, so another policy comes out."""
    other = Checkpoint(folder(tmp_path / "other", seed=4))
    cfg = CONFIGS[4]
    plain = played(cfg, init, tmp_path / "a")
    named = played(cfg, init, tmp_path / "b", against=other)
    assert any(not torch.equal(x, weights(named)[k]) for k, x in weights(plain).items())


def test_a_policy_of_other_tokens_cannot_be_played_against(init: Path, tmp_path: Path):
    stranger = folder(tmp_path / "stranger")
    from worlds import letters

    letters(40).save_pretrained(stranger)
    with pytest.raises(ModelError, match="another tokenizer"):
        ReferenceOpponent(players(init, against=Checkpoint(stranger, "stranger")))


def test_greedy_play_is_refused(init: Path, tmp_path: Path):
    ctx = StageContext.at(tmp_path, seed=Seed(5), events=Heard(), machine=FP32)
    greedy = Sampling(temperature=0.0, max_tokens=4)
    with pytest.raises(ConfigError):
        nash_md.fit(
            Checkpoint(init), prompts(init, 2), Shorter(), CONFIGS[0], sampling=greedy, ctx=ctx
        )


def test_what_the_last_saved_state_names_is_kept(init: Path):
    """A run that is killed between two saves goes on from the older one, with its past."""
    torch.manual_seed(0)
    here = players(init)
    opponent = PastOpponent(here, keep=2, every=1, recency=1.0)
    for _ in range(3):
        opponent.draw(asked(init), 1)
    saved = opponent.state_dict()
    assert saved["turns"] == [1, 2]
    for _ in range(4):  # rounds that no state is written of
        opponent.draw(asked(init), 1)
    again = PastOpponent(here, keep=2, every=1, recency=1.0)
    again.load_state_dict(saved)
    for _ in range(6):
        again.draw(asked(init), 1)
    again.state_dict()
    again.state_dict()
    assert len(list(again.folder.glob("*.safetensors"))) == 2

"""Algorithm 1 as a run: where each step starts from, what is shared, what is refused."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from climbing import FP32, SHORT, prompts
from tandem.data.groups import Groups
from tandem.data.record import Group, Preference
from tandem.errors import ConfigError
from tandem.judges.agreement import SameText
from tandem.judges.templates import FeedbackFormats
from tandem.methods import INPUTS, controls, rlp
from tandem.methods.ppo import PPOConfig
from tandem.methods.reward import RewardConfig
from tandem.methods.rlp import RLP_VARIANTS, RLPConfig
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.display import Hidden
from tandem.runs.events import read_events
from tandem.runs.records import Record
from tandem.runs.run import Run
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.training.multiview import MultiViewConfig
from tandem.training.optim import Optim
from tiny import folder

STEP = Optim(lr=3e-3, schedule="linear", warmup=0.0, eps=1e-5)
CFG = RLPConfig(
    n=4,
    gamma=0.25,
    same="exact",
    uml=MultiViewConfig(z=4, hidden=16),
    reward=RewardConfig(batch=4, optim=STEP),
    ppo=PPOConfig(prompts=4, rounds=2, inner=1, minibatch=4, beta=0.05, optim=STEP),
)
HOW = replace(SHORT, max_tokens=3)


@dataclass(frozen=True)
class Early:
    """Prefers the answer with more letters of the first half of the alphabet."""

    name: str = "early"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for group in groups:
            a, b = (np.mean([x < "n" for x in c.text] or [0]) for c in group.completions)
            p = 0.5 + 0.5 * float(np.sign(a - b))
            yield replace(group, preferences=(Preference(0, 1, p, by=self.name),))


@dataclass
class Done:
    """A run in which every variant and every control was done."""

    run: Run
    path: Path
    pi_sft: Checkpoint
    D: Groups
    results: dict[str, Checkpoint]

    def record(self, name: str) -> Record:
        return next(r for r in self.run.records() if r.name == name)

    def given(self, name: str) -> dict[str, Any]:
        return self.record(name).arguments


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    home = tmp_path_factory.mktemp("rlp")
    pi_sft = Checkpoint(folder(home / "sft"), "SFT")
    x = prompts(pi_sft.path, 6)
    with Run(home / "run", 3, display=Hidden(), machine=FP32) as run:
        pairs = run("preferences-pairs", sample, pi_sft, x, n=2, sampling=HOW)
        D = run("preferences", judge, pairs, Early())
        inputs = {
            "pi_sft": pi_sft, "D": D, "prompts": x, "same": {"exact": SameText()}, "sampling": HOW,
            "validation": None, "humans": Early(), "formats": FeedbackFormats(),
        }  # fmt: skip
        results: dict[str, Checkpoint] = {}
        for name, (recipe, cfg) in {
            "spg": (rlp.recipe, CFG),
            "uml": (rlp.recipe, replace(CFG, gamma=None, lam=0.5)),
            "cycle": (rlp.recipe, replace(CFG, lam=0.5, rounds=2)),
            **{name: (recipe, CFG) for name, recipe in controls.CONTROLS.items()},
        }.items():
            wanted = set(inspect.signature(recipe).parameters) & set(inputs)
            given = {k: v for k, v in inputs.items() if k in wanted}
            if "r_phi" in inspect.signature(recipe).parameters:
                given["r_phi"] = next(r.load() for r in run.records() if r.name == "reward")
            results[name] = recipe(run, **given, cfg=cfg)
        yield Done(run, home / "run", pi_sft, D, results)


ALGORITHM = ["reward", "ppo", "samples", "opinions", "pairs-spg", "reward-spg", "ppo-spg"]


def test_spg_is_algorithm_1_line_by_line(done: Done):
    assert [r.name for r in done.run.records()][2:9] == ALGORITHM
    P = done.record("samples").load()
    assert {len(g) for g in P} == {4}
    assert {c.author for g in P for c in g.completions} == {"PPO"}
    D_hat = done.record("pairs-spg").load()
    assert 0 < len(D_hat) <= len(P)
    assert done.given("reward-spg")["data"] == {
        "groups": (done.D + D_hat).hash,
        "prompts": len(done.D) + len(D_hat),
    }


@pytest.mark.parametrize("stage", ["ppo-spg", "ppo-uml", "ppo-again", "ppo-relabelled"])
def test_line_5_starts_from_pi_sft_and_is_held_to_it(done: Done, stage: str):
    """By hash; `ref` is left out, and then is what the policy starts from: KL 0 at the start."""
    assert done.given(stage)["init"]["checkpoint"] == done.pi_sft.hash
    assert done.given(stage)["ref"] is None
    kls = [
        e["kl"] for e in read_events(done.path / "events.jsonl")
        if e["stage"].endswith(f"-{stage}") and "kl" in e
    ]  # fmt: skip
    assert abs(kls[0]) < 1e-5
    assert done.record(stage).load().hash not in (done.pi_sft.hash, done.record("ppo").load().hash)


def test_line_4_starts_from_pi_sft_and_has_its_views(done: Done):
    for stage in ("reward-spg", "reward-uml", "reward-again"):
        assert done.given(stage)["init"]["checkpoint"] == done.pi_sft.hash
    assert done.given("reward-uml")["views"]["groups"] == done.record("samples").load().hash
    assert done.given("reward-uml")["lam"] == 0.5
    assert done.given("reward-uml")["data"]["groups"] == done.D.hash
    assert done.given("reward-spg")["views"] is None


def test_the_reward_that_is_climbed_is_the_new_one(done: Done):
    for tag in ("spg", "uml", "again", "shuffled"):
        climbed = done.given(f"ppo-{tag}")["reward"]["checkpoint"]
        assert climbed["checkpoint"] == done.record(f"reward-{tag}").load().hash


def test_the_second_round_uses_the_newest_of_all(done: Done):
    """Figure 1 is a cycle: samples of pi_hat, opinions of r_hat, from pi_sft again."""
    (place,) = [p for p in done.path.iterdir() if p.name.startswith("uml-spg-round")]
    stages = {p.name.partition("-")[2]: p for p in place.iterdir()}
    assert sorted(stages) == sorted(
        ["samples", "opinions", "pairs-uml-spg", "reward-uml-spg", "ppo-uml-spg"]
    )
    second = {r.name: r for r in done.run.scope(place.name).records()}
    assert second["samples"].arguments["policy"]["name"] == "RLP-uml-spg"
    first = done.record("ppo-uml-spg").load()
    assert second["samples"].arguments["policy"]["checkpoint"] == first.hash
    assert second["ppo-uml-spg"].arguments["init"]["checkpoint"] == done.pi_sft.hash
    assert done.results["cycle"].hash == second["ppo-uml-spg"].load().hash


def test_controls_share_what_they_do_not_change(done: Done):
    """Nothing is done twice: one reward, one policy and one set of samples for all of them."""
    names = [r.name for r in done.run.records()]
    assert len(names) == len(set(names))
    for once in ("reward", "ppo", "samples", "opinions", "pairs-spg"):
        assert names.count(once) == 1
    assert len({c.hash for c in done.results.values()}) == len(done.results)


def test_each_control_changes_one_thing(done: Done):
    assert done.given("ppo-longer")["cfg"]["rounds"] == 2 * CFG.ppo.rounds
    assert done.given("ppo-longer")["reward"] == done.given("ppo")["reward"]
    assert done.given("reward-again")["data"] == done.given("reward")["data"]
    assert done.record("reward-again").seed != done.record("reward").seed
    spg, real, dealt, own = (
        list(done.record(f"pairs-{n}").load())
        for n in ("spg", "relabelled", "shuffled", "by-reward")
    )
    assert [[c.text for c in g.completions] for g in real] == [
        [c.text for c in g.completions] for g in spg
    ]
    assert {p.by for g in real for p in g.preferences} == {"early"}
    assert {p.by for g in spg for p in g.preferences} == {"clusters"}
    assert [g.id for g in dealt] == [g.id for g in spg]
    assert len(own) == len(spg)
    for g in own:
        (pair,) = g.preferences
        assert g.scores is not None
        assert pair.p == 0.5 or g.scores[pair.i] > g.scores[pair.j]


def test_how_much_longer_winners_are_is_logged(done: Done):
    (line, *_) = [e for e in read_events(done.path / "events.jsonl") if e["kind"] == "synthetic"]
    assert line["pairs"] == len(done.record("pairs-spg").load())
    assert line["of"] == 6
    assert 1 <= line["chosen_length"] <= 4


def test_every_variant_has_a_name_of_its_own():
    assert {name: cfg.variant for name, cfg in RLP_VARIANTS.items()} == {n: n for n in RLP_VARIANTS}
    assert RLPConfig(gamma=None).variant == "again"


def test_controls_ask_for_known_inputs():
    for recipe in controls.CONTROLS.values():
        names = list(inspect.signature(recipe).parameters)
        assert names[0] == "run"
        assert names[-1] == "cfg"
        assert set(names[1:-1]) <= set(INPUTS)


@pytest.mark.parametrize("bad", [{"n": 1}, {"rounds": 0}, {"lam": -1.0}])
def test_wrong_settings_are_refused(bad: dict[str, Any]):
    with pytest.raises(ConfigError, match="rlp"):
        RLPConfig(**bad)

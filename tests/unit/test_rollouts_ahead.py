"""Samples drawn one round ahead: whose they are, beside what they are drawn, and after a kill."""

from __future__ import annotations

import copy
import importlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from climbing import FAST, FP32, SHORT, Heard, climbed, prompts, somewhere
from tandem.cli import main
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.engines.torch import TorchEngine
from tandem.errors import ConfigError
from tandem.methods import METHODS, ROLLOUTS_AHEAD, grpo, ppo
from tandem.models.forward import forward_groups
from tandem.models.opening import open_policy
from tandem.models.packed import ActorCritic
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed
from tandem.training.prompt_draws import PromptDraws
from tandem.training.rollouts import Experience, RolloutConfig, RolloutShape, RolloutSource
from tiny import folder

AHEAD = replace(FP32, rollouts_ahead=True)
SHAPE = RolloutShape(prompts=4, n=2, rounds=4, epochs=1, minibatch=2)
GRPO = grpo.GRPOConfig(prompts=4, n=4, rounds=4, inner=1, minibatch=2, beta=0.02, optim=FAST)
DAPO = replace(GRPO, informative=True, beta=0.0)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("init"))


class Kept:
    """Keeps each round's samples and the policy that they became experience of."""

    def __init__(self, policy: ActorCritic) -> None:
        self.controllers: dict[str, Any] = {}
        self.policy, self.rounds = policy, list[tuple[list[Group], Any]]()

    def experience(self, groups: list[Group]) -> Experience:
        self.rounds.append((groups, copy.deepcopy(self.policy.actor)))
        return Experience(groups, {}, {})

    def loss(self, out: Any, batch: Any) -> Any:
        raise NotImplementedError


class Elsewhere:
    """An engine with weights of its own; `open` is set when it may draw."""

    is_exact = False

    def __init__(self, lm: Any, tokenizer: Any) -> None:
        self.lm = copy.deepcopy(lm)
        self.engine = TorchEngine(self.lm, tokenizer)
        self.open = threading.Event()
        self.open.set()
        self.threads: list[str] = []

    def load(self, weights: Any) -> None:
        self.lm.load_state_dict(weights.state_dict())

    def sample(
        self, prompts: Iterable[Group], n: int, sampling: Sampling, seed: Seed
    ) -> Iterator[Group]:
        assert self.open.wait(30), "nobody trained while it was drawn"
        self.threads.append(threading.current_thread().name)
        yield from self.engine.sample(prompts, n, sampling, seed)


def _source(init: Path, engine: Any = TorchEngine, machine: Any = AHEAD) -> tuple[Any, Kept]:
    policy = ActorCritic(open_policy(init, FP32))
    kept = Kept(policy)
    ctx = replace(somewhere(Heard(), machine), seed=Seed(1))
    drawing = engine(policy.actor.lm, load_tokenizer(init))
    rollout = RolloutConfig(SHAPE, SHORT)
    return RolloutSource(prompts(init, 6), drawing, kept, rollout, "shared", ctx), kept


def _trained(source: Any, kept: Kept) -> None:
    """Every step moves the weights."""
    draw = torch.Generator().manual_seed(0)
    for _ in source.steps(kept.policy):
        with torch.no_grad():
            for p in kept.policy.parameters():
                p.add_(0.02 * torch.randn(p.shape, generator=draw))


def _off_by(groups: list[Group], policy: Any) -> float:
    """The largest difference of the samples' own log-probabilities from a policy's."""
    read = forward_groups(policy, groups, 10**6)
    pairs = zip(groups, (r.logp or () for _, r in read), strict=True)
    return max(
        float(np.abs(np.asarray(c.logp) - x).max())
        for group, found in pairs
        for c, x in zip(group.completions, found, strict=True)
    )


@pytest.mark.parametrize("engine", [TorchEngine, Elsewhere])
def test_samples_are_of_the_policy_one_round_before(init: Path, engine: Any):
    source, kept = _source(init, engine)
    _trained(source, kept)
    assert len(kept.rounds) == SHAPE.rounds
    policies = [policy for _, policy in kept.rounds]
    for turn, (groups, policy) in enumerate(kept.rounds):
        assert _off_by(groups, policies[max(0, turn - 1)]) < 1e-5
        assert turn == 0 or _off_by(groups, policy) > 1e-3
    assert source.draws.asked == SHAPE.rounds * SHAPE.prompts, "nothing is drawn for no round"
    assert source.draws.coming is None


def test_without_it_samples_are_of_the_policy_itself(init: Path):
    source, kept = _source(init, machine=FP32)
    _trained(source, kept)
    assert all(_off_by(groups, policy) < 1e-5 for groups, policy in kept.rounds)


def test_both_kinds_of_engines_draw_the_same(init: Path):
    texts: list[list[str]] = []
    for engine in (TorchEngine, Elsewhere):
        source, kept = _source(init, engine)
        _trained(source, kept)
        drawn = [g for groups, _ in kept.rounds for g in groups]
        texts.append([c.text for g in drawn for c in g.completions])
    assert texts[0] == texts[1]


def test_an_engine_elsewhere_draws_while_the_policy_is_trained(init: Path):
    """It may draw the second round only when the first step of the first one was taken."""
    source, kept = _source(init, Elsewhere)
    engine: Elsewhere = source.draws.engine
    steps = source.steps(kept.policy)
    begin = source.draws.begin

    def shut(count: int) -> None:
        engine.open.clear()
        begin(count)

    source.draws.begin = shut
    next(steps)
    assert source.draws.coming is not None
    assert not source.draws.coming.done()
    next(steps)
    engine.open.set()
    next(steps)
    assert source.metrics["sample_s"] == pytest.approx(source.draws.waited, abs=1e-3)
    assert [name.startswith("tandem-rollouts") for name in engine.threads][:2] == [False, True]


def test_a_state_holds_what_was_drawn_ahead(init: Path):
    source, kept = _source(init, Elsewhere)
    draws: PromptDraws = source.draws
    draws.load(kept.policy.actor.lm)
    draws.begin(3)
    state = draws.state_dict()
    again = _source(init, Elsewhere)[0].draws
    again.load_state_dict(state)
    same = [[(g.id, g.completions) for g in d.take(3)] for d in (draws, again)]
    assert [i for i, _ in same[0]] == [i for i, _ in same[1]]
    for (_, a), (_, b) in zip(*same, strict=True):
        assert [c.tokens.tolist() for c in a] == [c.tokens.tolist() for c in b]
        assert [np.asarray(c.logp).tolist() for c in a] == [np.asarray(c.logp).tolist() for c in b]
    assert draws.asked == again.asked == 3


@pytest.mark.parametrize("cfg", [GRPO, DAPO], ids=["grpo", "dapo"])
def test_a_killed_fit_ends_in_the_same_bits(cfg: Any, init: Path, tmp_path: Path):
    whole = climbed(grpo, cfg, init, tmp_path / "whole", machine=AHEAD)
    for step in (1, 2, 5):
        place = tmp_path / f"killed-{step}"
        with pytest.raises(KeyboardInterrupt):
            climbed(grpo, cfg, init, place, machine=AHEAD, heard=Heard(dies_at=step))
        again = climbed(grpo, cfg, init, place, machine=AHEAD)
        saved = [(c.path / "model.safetensors").read_bytes() for c in (again, whole)]
        assert saved[0] == saved[1]


@pytest.mark.parametrize(
    ("method", "cfg"),
    [
        (grpo, replace(GRPO, prompts=6, n=8, rounds=16, minibatch=6)),
        (ppo, ppo.PPOConfig(prompts=48, rounds=16, inner=1, minibatch=48, beta=0.01, optim=FAST)),
    ],
    ids=["grpo", "ppo"],
)
def test_it_learns_from_older_samples_and_weighs_them(
    method: Any, cfg: Any, init: Path, tmp_path: Path
):
    heard = Heard()
    climbed(method, cfg, init, tmp_path, machine=AHEAD, heard=heard)
    rounds = heard.of("round")
    assert abs(rounds[0]["mismatch_nats"]) < 1e-6, "the first round is of the policy itself"
    assert all(line["mismatch_nats"] > 1e-6 for line in rounds[2:-2])
    proxy = [line["proxy"] for line in rounds]
    assert np.mean(proxy[-3:]) > np.mean(proxy[:3]) + 0.05


# --- refusals -------------------------------------------------------------------------------------


def test_a_loss_over_pairs_refuses_it(init: Path, tmp_path: Path):
    from tandem.methods import online_dpo

    cfg = online_dpo.OnlineDPOConfig(prompts=4, rounds=2)
    with pytest.raises(ConfigError, match="rollouts_ahead = true for"):
        climbed(online_dpo, cfg, init, tmp_path, machine=AHEAD)


def test_k2_refuses_it(init: Path, tmp_path: Path):
    cfg = replace(GRPO, kl="k2", minibatch=4)
    with pytest.raises(ConfigError, match=r"with grpo\.kl = k2"):
        climbed(grpo, cfg, init, tmp_path, machine=AHEAD)


def test_the_list_of_methods_is_of_those_with_a_policy_gradient():
    """What each file trains on policy, by its own classes."""
    for name in METHODS:
        module = importlib.import_module(f"tandem.methods.{name}")
        algorithms = [
            c
            for c in vars(module).values()
            if isinstance(c, type) and c.__module__ == module.__name__ and hasattr(c, "experience")
        ]
        if algorithms:
            weighs = all(getattr(c, "is_policy_gradient", False) for c in algorithms)
            assert weighs == (name in ROLLOUTS_AHEAD), name


def test_the_command_refuses_it_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    out = tmp_path / "out"
    words = ["run", "dpo", "--task", "micro", f"--out={out}", "--machine.rollouts_ahead=true"]
    assert main(words) == 2
    assert "machine.rollouts_ahead = true for dpo" in capsys.readouterr().err
    assert not out.exists()


def test_prompts_come_in_the_same_order_with_and_without(init: Path):
    orders: list[list[str]] = []
    for machine in (FP32, AHEAD):
        source, kept = _source(init, machine=machine)
        _trained(source, kept)
        orders.append([g.id for groups, _ in kept.rounds for g in groups])
    assert orders[0] == orders[1]

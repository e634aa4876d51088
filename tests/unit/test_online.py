"""On-policy training: docs/theory/ppo.md#checklist, item by item, and PPO's relatives.

Left-padded queries and pad = EOS have no counterpart here (rows carry no padding inside, see
test_engine and test_loop); Adam's epsilon and linear decay are settings, tested in test_loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from climbing import FAST, FP32, SHORT, Heard, Letters, climbed, drawn, prompts, somewhere
from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.ragged import Ragged
from tandem.data.record import Group
from tandem.engines.torch import TorchEngine
from tandem.judges import open_judge
from tandem.judges.reward_model import RewardModel
from tandem.machine import Lora
from tandem.methods import grpo, ppo
from tandem.models import loading
from tandem.models.opening import open_policy
from tandem.models.packed import ActorCritic
from tandem.models.tokenizers import load_tokenizer
from tandem.objectives.advantages import gae
from tandem.objectives.shaped_rewards import kl_shaping
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.training.rollout_models import RolloutModels
from tandem.training.rollouts import (
    Experience,
    RolloutConfig,
    RolloutShape,
    RolloutSource,
    is_one_round,
)
from tandem.training.validation import Validation
from tiny import close, folder, gradient, lm
from worlds import letters

PPO = ppo.PPOConfig(prompts=8, rounds=2, inner=2, minibatch=4, beta=0.05, optim=FAST)
GRPO = grpo.GRPOConfig(prompts=4, n=4, rounds=2, inner=2, minibatch=2, optim=FAST)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("init"))


@pytest.fixture(scope="module")
def r_phi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with random weights of its own and a stored scale."""
    place = tmp_path_factory.mktemp("reward")
    model = lm("llama", 3, hf.AutoModelForSequenceClassification, num_labels=1)
    model.config.tandem = {"gain": 2.0, "bias": 0.5}
    model.save_pretrained(place)
    letters(41).save_pretrained(place)
    return place


def open_models(init: Path, critic: Path | None = None, reward: Any = None) -> RolloutModels:
    judge = reward or Letters() if critic is None else RewardModel(Checkpoint(critic))
    policy = ppo.actor_critic(Checkpoint(init), judge, PPO, somewhere(Heard(), FP32))
    return RolloutModels(policy, open_policy(init, FP32), open_judge(judge, FP32), FP32)


@dataclass
class Given:
    """An algorithm whose experience is a function that was given; it has no loss."""

    experience: Callable[[list[Group]], Experience]
    controllers: dict[str, Any] = field(default_factory=dict)

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Terms]:
        raise NotImplementedError


def online(
    experience: Any, shape: RolloutShape, init: Path, tokens: int = 10**6
) -> tuple[RolloutSource, ActorCritic]:
    """A source, and the policy that it samples from."""
    policy = ActorCritic(open_policy(init, FP32))
    engine = TorchEngine(policy.actor.lm, load_tokenizer(init))
    ctx = replace(somewhere(Heard(), replace(FP32, tokens=tokens)), seed=Seed(1))
    rollout = RolloutConfig(shape, SHORT)
    return RolloutSource(
        prompts(init, 6), engine, Given(experience), rollout, "shared", ctx
    ), policy


# --- the first minibatch, and how a step is cut ---------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("method", [ppo, grpo], ids=["ppo", "grpo"])
def test_the_first_minibatch_has_ratio_one(
    method: Any, temperature: float, init: Path, tmp_path: Path
):
    """Also at a temperature: log-probabilities are divided by it in sampling and in training.

    In the second minibatch of the pass the policy has moved, and the ratio with it.
    """
    heard = Heard()
    cfg = PPO if method is ppo else replace(GRPO, beta=0.0)
    sampling = replace(SHORT, temperature=temperature)
    climbed(method, cfg, init, tmp_path, heard=heard, sampling=sampling)
    per_round = 4
    for step in (0, per_round):
        first = heard.of("train")[step]
        assert first["ratio"] == pytest.approx(1, abs=1e-5)
        assert first["clip_share"] == 0
        assert first["approx_kl"] == pytest.approx(0, abs=1e-6)
        assert heard.of("train")[step + 1]["approx_kl"] > 1e-6
    assert all(line["mismatch"] < 1e-4 for line in heard.of("round"))


@pytest.mark.parametrize("name", ["ppo", "ppo shared", *grpo.GRPO_VARIANTS])
def test_the_cut_of_a_step_changes_no_gradient(name: str, init: Path):
    """One micro-batch for the whole step, or one a prompt: the same gradient."""
    actors = open_models(init)
    if name.startswith("ppo"):
        shared = replace(PPO, value="shared" if "shared" in name else "separate")
        judge = Letters()
        policy = ppo.actor_critic(Checkpoint(init), judge, shared, somewhere(Heard(), FP32))
        actors = replace(actors, policy=policy)
        method: Any = ppo.PPOAlgorithm(actors, shared)
        n = 1
    else:
        cfg = replace(grpo.GRPO_VARIANTS[name], n=3, prompts=6, minibatch=6)
        actors = replace(actors, policy=ActorCritic(open_policy(init, FP32, train=True)))
        method, n = grpo.GRPOAlgorithm(actors, cfg, 6), 3
    shape = RolloutShape(6, n, 1, 1, 6)
    with torch.no_grad():
        found = method.experience(drawn(init, n))
    nudge(actors.policy)
    sources = [online(lambda g: found, shape, init, t)[0] for t in (10**6, 1)]
    whole, cut = (source._batches(0, 0, found) for source in sources)
    assert len(whole) == 1
    assert len(cut) == len(found.groups)
    close(
        gradient(actors.policy, whole, method.loss), gradient(actors.policy, cut, method.loss), 2e-5
    )


def nudge(module: nn.Module) -> None:
    """Move the policy off the one that sampled, so that ratios and penalties are not trivial."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.003 * torch.randn(p.shape, generator=draw))


def test_minibatches_are_shuffled_afresh_and_cover_the_round(init: Path):
    """Each inner pass sees every sample once, in another order."""
    source, policy = online(lambda g: Experience(g, {}, {}), RolloutShape(6, 1, 2, 3, 2), init)
    seen = [
        [tuple(g.tolist()) for b in micro for g in sequences(b)] for micro in source.steps(policy)
    ]
    assert len(seen) == source.total == 2 * 3 * 3
    passes = [list(chain.from_iterable(seen[k : k + 3])) for k in range(0, 18, 3)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    assert len({tuple(p) for p in passes[:3]}) == 3
    assert sorted(passes[0]) != sorted(passes[3])


def sequences(batch: Any) -> list[Tensor]:
    """The trained tokens of each completion."""
    return Ragged(batch.tokens.target, batch.tokens.owner, batch.tokens.n).rows()


def test_a_prompt_that_comes_twice_in_a_round_is_drawn_afresh(init: Path):
    """Six prompts, a round of 24: four passes, and not four copies of the same answers."""
    rounds: list[list[Group]] = []

    def experience(groups: list[Group]) -> Experience:
        rounds.append(groups)
        return Experience(groups, {}, {})

    source, policy = online(experience, RolloutShape(24, 1, 2, 1, 24), init)
    list(source.steps(policy))
    for groups in rounds:
        assert sorted({g.id for g in groups}) == [f"p{i}" for i in range(6)]
        for one in {g.id for g in groups}:
            texts = [g.completions[0].text for g in groups if g.id == one]
            assert len(texts) == 4
            assert len(set(texts)) > 1
    assert answers(rounds[0]) != answers(rounds[1])


def answers(groups: Iterable[Group]) -> list[str]:
    return [c.text for g in groups for c in g.completions]


# --- PPO's experience -----------------------------------------------------------------------------


def test_rewards_whitening_and_advantages_are_of_the_whole_rollout(init: Path, r_phi: Path):
    """Recomputed here from the frozen columns: advantages have mean 0 and deviation 1 over all
    tokens of the round, and the returns are those of rewards scaled but not shifted."""
    actors = open_models(init, r_phi)
    groups = drawn(init)
    found = ppo.PPOAlgorithm(actors, PPO).experience(groups)
    A = found.columns["advantages"].values
    assert A.mean().item() == pytest.approx(0, abs=1e-6)
    assert A.std().item() == pytest.approx(1, abs=1e-5)
    old, V = found.columns["old_logp"], found.columns["old_values"]
    r = actors.scores(list(actors.reward(groups)))
    R = kl_shaping(r, old, actors.ref_logprobs(groups), PPO.beta)
    scaled = R.map(lambda x: (x - x.mean()) / x.std() + x.mean())
    raw, G = gae(scaled, V, 1.0, 1.0)
    torch.testing.assert_close(found.columns["returns"].values, G.values)
    torch.testing.assert_close(A, (raw.values - raw.values.mean()) / raw.values.std())
    plain = replace(PPO, whiten_rewards=False, whiten_advantages=False)
    found = ppo.PPOAlgorithm(actors, plain).experience(groups)
    torch.testing.assert_close(found.columns["advantages"].values, gae(R, V, 1.0, 1.0)[0].values)
    total = R.sum() - (r - PPO.beta * (old - actors.ref_logprobs(groups)).sum())
    assert total.abs().max() < 1e-5


def test_missing_eos_rules(init: Path):
    """The score of an answer that never ends is replaced, or reduced; of others it is left."""
    actors, groups = open_models(init), drawn(init, count=6)
    ended = [c.stopped for g in groups for c in g.completions]
    groups = [  # some of both, whatever was drawn
        replace(g, completions=(replace(g.completions[0], stopped=k % 2 == 0),))
        for k, g in enumerate(groups)
    ]
    assert len(ended) == 6
    calm = replace(PPO, beta=0.0, whiten_rewards=False, whiten_advantages=False)
    scores = {
        name: returns(ppo.PPOAlgorithm(actors, replace(calm, **rule)).experience(groups))
        for name, rule in {
            "none": {}, "replaced": {"no_eos": -1.0}, "reduced": {"no_eos_penalty": 0.25}
        }.items()
    }  # fmt: skip
    torch.testing.assert_close(scores["replaced"][::2], scores["none"][::2])
    assert scores["replaced"][1::2].tolist() == [-1.0] * 3
    torch.testing.assert_close(scores["reduced"][::2], scores["none"][::2])
    torch.testing.assert_close(scores["reduced"][1::2], scores["none"][1::2] - 0.25)


def returns(found: Experience) -> Tensor:
    """[N] the return of each answer's first token: all of its reward, since gamma = lambda = 1."""
    return torch.stack([row[0] for row in found.columns["returns"].rows()])


def test_values_are_read_before_each_token(init: Path, r_phi: Path):
    """V of the t-th token is the critic's head on the state that ends with token t - 1."""
    actors = open_models(init, r_phi)
    critic = actors.policy.critic
    assert critic is not None
    with torch.no_grad():
        critic.heads["value"].weight.normal_(generator=torch.Generator().manual_seed(1))
    groups = drawn(init, count=3)
    _, value = actors.old_logprobs(groups)
    assert value is not None
    body = loading.AutoModelForSequenceClassification.from_pretrained(r_phi, num_labels=1).model
    for group, got in zip(groups, value.rows(), strict=True):
        ids = np.concatenate([group.prompt.tokens, group.completions[0].tokens])
        with torch.no_grad():
            states = body(torch.tensor(ids)[None].long()).last_hidden_state[0]
            want = critic.heads["value"](states)[:, 0]
        start = len(group.prompt.tokens) - 1
        torch.testing.assert_close(got, want[start : start + len(got)], rtol=1e-4, atol=1e-5)


def test_the_value_function_starts_as_the_reward_model_with_a_zero_head(init: Path, r_phi: Path):
    heard = Heard()
    judge = RewardModel(Checkpoint(r_phi, "r_phi"))
    policy = ppo.actor_critic(Checkpoint(init), judge, PPO, somewhere(heard, FP32))
    assert policy.critic is not None
    start = loading.load_scalar(r_phi, FP32).state_dict()
    for name, value in policy.critic.inner.state_dict().items():
        assert torch.equal(value, start[name])
    head: Any = policy.critic.heads["value"]
    assert head.weight.abs().max() == head.bias.abs().max() == 0
    assert not policy.critic.inner.score.weight.requires_grad  # type: ignore[union-attr]
    assert "starts from r_phi" in heard.of("value")[0]["text"]
    own = ppo.actor_critic(Checkpoint(init, "sft"), Letters(), PPO, somewhere(heard, FP32))
    assert own.critic is not None
    base = loading.load_policy(init, FP32).model.state_dict()  # type: ignore[union-attr]
    for name, value in own.critic.inner.model.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, base[name])
    assert "starts from sft" in heard.of("value")[1]["text"]


def test_value_and_policy_learn_and_the_reward_models_head_does_not(
    init: Path, r_phi: Path, tmp_path: Path
):
    for value in ("separate", "shared"):
        heard = Heard()
        cfg = replace(PPO, value=value, rounds=6, whiten_rewards=False)
        place = tmp_path / value
        done = climbed(ppo, cfg, init, place, RewardModel(Checkpoint(r_phi)), heard=heard)
        rounds = heard.of("round")
        assert rounds[0]["explained_variance"] == pytest.approx(0, abs=1e-5)  # a head of zeros
        assert rounds[-1]["explained_variance"] != rounds[0]["explained_variance"]
        errors = [line["value_error"] for line in heard.of("train")]
        assert np.mean(errors[-8:]) < np.mean(errors[:4])
        assert done.hash != Checkpoint(init).hash
        exported = {p.name for p in done.path.iterdir()}
        assert "config.json" in exported
        loading.load_policy(done.path, FP32)  # a plain folder: the actor alone


def test_dropout_is_off_everywhere(tmp_path: Path):
    place = folder(tmp_path / "gpt2", "gpt2", resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5)
    policy = ppo.actor_critic(Checkpoint(place), Letters(), PPO, somewhere(Heard(), FP32))
    policy.train()
    found = [m.p for m in policy.modules() if isinstance(m, nn.Dropout)]
    assert found
    assert set(found) == {0.0}


def test_adaptive_beta_follows_the_divergence_and_is_resumed(init: Path, tmp_path: Path):
    """Below its target beta falls: e = -.2, n = 8, horizon 40: by the factor 1 - .2 * 8/40."""
    heard = Heard()
    cfg = replace(PPO, kl_target=1e3, kl_horizon=40.0, rounds=3)
    climbed(ppo, cfg, init, tmp_path / "calm", heard=heard)
    want = [0.05 * 0.96**k for k in range(3)]
    assert [line["beta"] for line in heard.of("round")] == pytest.approx(want)
    with pytest.raises(KeyboardInterrupt):
        climbed(ppo, cfg, init, tmp_path / "torn", heard=Heard(dies_at=6))
    late = Heard()
    climbed(ppo, cfg, init, tmp_path / "torn", heard=late)
    assert [line["beta"] for line in late.of("round")] == pytest.approx(want[1:])


def test_alpacafarms_clamp_is_a_choice_and_not_the_default(init: Path):
    """With `kl_floor=0` tokens below the reference's probability pay nothing back for it."""
    actors, groups = open_models(init), drawn(init)
    nudge(actors.policy)
    calm = replace(PPO, beta=0.5, whiten_rewards=False, whiten_advantages=False)
    plain, clamped = (
        returns(ppo.PPOAlgorithm(actors, replace(calm, kl_floor=floor)).experience(groups))
        for floor in (None, 0.0)
    )
    old, _ = actors.old_logprobs(groups)
    gap = old - actors.ref_logprobs(groups)
    assert (gap.values < 0).any()
    torch.testing.assert_close(plain - clamped, 0.5 * gap.map(lambda x: (-x).clamp(min=0)).sum())


def test_the_dials_of_a_round(init: Path, tmp_path: Path):
    heard = Heard()
    climbed(ppo, PPO, init, tmp_path, heard=heard)
    for line in heard.of("round"):
        assert line["sample_s"] > 0
        assert line["score_s"] > 0
        assert line["train_s"] > 0
        assert line["sample_tokens_per_s"] > 0
        assert 0 <= line["proxy"] <= 1
        assert 1 <= line["length"] <= 6
        assert 0 <= line["mismatch"] < 1e-4
        assert {"kl", "entropy", "stopped", "explained_variance", "beta"} <= set(line)
    assert [line["round"] for line in heard.of("round")] == [1, 2]
    assert all(line["tokens_per_s"] > 0 for line in heard.of("train"))
    assert abs(heard.of("round")[0]["kl"]) < 1e-5  # the first round samples the reference


# --- relatives ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picky:
    """The same score for all answers to some prompts, different ones for the others."""

    flat: tuple[str, ...]
    name: str = "picky"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for g in groups:
            spread = np.zeros(len(g)) if g.id in self.flat else np.arange(len(g), dtype=float)
            yield replace(g, scores=spread)


@pytest.mark.parametrize(
    ("sampling", "told"),
    [({}, 1), ({"kl": "k2"}, 0), ({"kl": "reward"}, 0), ({"beta": 0.0}, 0)],
    ids=str,
)
def test_k3_as_a_loss_says_that_its_optimum_is_another(
    sampling: dict[str, Any], told: int, init: Path, tmp_path: Path
):
    heard = Heard()
    fresh = {"inner": 1, "minibatch": GRPO.prompts}  # k2 asks for it
    climbed(grpo, replace(GRPO, rounds=1, **fresh, **sampling), init, tmp_path, heard=heard)
    assert len(heard.of("estimator")) == told
    assert all("not pi_ref exp" in line["text"] for line in heard.of("estimator"))


DAPO = replace(grpo.GRPO_VARIANTS["dapo"], n=3, prompts=4, minibatch=2, rounds=2, optim=FAST)


@dataclass
class Counting:
    """Asks another judge and remembers who was judged."""

    judge: Any
    seen: list[str] = field(default_factory=list)
    name: str = "counting"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for g in self.judge(groups):
            self.seen.append(g.id)
            yield g


def dapo_round(init: Path, judge: Any, cfg: grpo.GRPOConfig = DAPO) -> tuple[Any, RolloutSource]:
    """Sample a round with DAPO; return its experience and the source."""
    method = algorithm(init, judge, cfg, grpo.SelectiveGRPO)
    shape = RolloutShape(cfg.prompts, cfg.n, cfg.rounds, cfg.inner, cfg.minibatch)
    source, policy = online(None, shape, init)
    source.algorithm = method
    return source._sampled(policy), source


def test_dapo_fills_its_round_with_groups_that_have_spread(init: Path):
    """Prompts 1 and 4 of six have none: four others are found, further prompts in their order."""
    plain, _ = dapo_round(init, Picky(()))
    assert len(plain.groups) == 4
    assert plain.metrics["informative"] == 1
    judge = Counting(Picky(("p1", "p4")))
    found, source = dapo_round(init, judge)
    assert len(found.groups) == DAPO.prompts
    assert not {g.id for g in found.groups} & {"p1", "p4"}
    assert all(len(set(g.scores.tolist())) > 1 for g in found.groups)
    assert source.metrics["drawn"] == len(judge.seen) == source.draws.asked > DAPO.prompts
    flat = sum(name in ("p1", "p4") for name in judge.seen)
    assert found.metrics["informative"] == pytest.approx(1 - flat / len(judge.seen))
    assert found.columns["advantages"].rows()[0].abs().max() > 0
    order = [g.id for _, g in _prompts_in_order(source, source.draws.asked)]
    assert judge.seen == order


def _prompts_in_order(source: RolloutSource, count: int) -> list[tuple[int, Group]]:
    source.draws.asked = 0
    return list(source.draws._next_prompts(count))


def test_a_prompt_that_comes_again_in_a_round_is_drawn_anew(init: Path):
    """Five of six have no spread: the sixth fills the round, each time with other answers."""
    found, _ = dapo_round(init, Picky(tuple(f"p{i}" for i in range(5))))
    assert {g.id for g in found.groups} == {"p5"}
    assert len(found.groups) == 4
    assert len({tuple(c.text for c in g.completions) for g in found.groups}) > 1


def test_dapo_gives_up_after_ten_draws(init: Path):
    """Nobody has spread: one group a step is left, with advantages of 0."""
    judge = Counting(Picky(tuple(f"p{i}" for i in range(6))))
    none, source = dapo_round(init, judge)
    assert source.metrics["drawn"] == len(judge.seen) == 10 * DAPO.prompts
    assert len(none.groups) == 2
    assert none.columns["advantages"].values.abs().max() == 0
    assert none.metrics["informative"] == 0


def test_dapo_resumes_in_the_middle_of_a_round(init: Path, tmp_path: Path):
    """With groups drawn in place of others the same as without the kill, bit for bit."""
    judge = Picky(("p1", "p4"))
    whole = climbed(grpo, DAPO, init, tmp_path / "whole", judge)
    for step in (1, 3):
        place = tmp_path / f"killed-{step}"
        with pytest.raises(KeyboardInterrupt):
            climbed(grpo, DAPO, init, place, judge, heard=Heard(dies_at=step))
        again = climbed(grpo, DAPO, init, place, judge)
        saved = [(c.path / "model.safetensors").read_bytes() for c in (again, whole)]
        assert saved[0] == saved[1]


def test_dapo_pays_less_for_overlong_answers(init: Path):
    """Over the last fifth of 6 tokens (1 token): -1 at the limit, nothing before it.

    Groups are chosen by the judge's own scores; equal ones get an advantage from length alone.
    """
    groups = drawn(init, 3)
    cfg = replace(DAPO, advantage="mean")
    free, dear = (
        algorithm(init, Letters(), c).experience(groups) for c in (replace(cfg, overlong=0.0), cfg)
    )
    lengths = free.columns["old_logp"].count()
    lost = torch.where(lengths >= 6, -1.0, 0.0)
    assert set(lost.tolist()) == {-1.0, 0.0}
    group = torch.arange(6).repeat_interleave(3)
    wanted = lost - torch.stack([lost[group == g].mean() for g in group])
    got = dear.columns["advantages"].values - free.columns["advantages"].values
    owner = free.columns["advantages"].owner
    torch.testing.assert_close(got, wanted[owner])
    assert dear.metrics["proxy"] < free.metrics["proxy"]


def algorithm(
    init: Path, judge: Any, cfg: grpo.GRPOConfig, kind: Any = grpo.GRPOAlgorithm
) -> grpo.GRPOAlgorithm:
    actors = open_models(init, reward=judge)
    actors = replace(actors, policy=ActorCritic(open_policy(init, FP32, train=True)))
    return kind(actors, cfg, 6)


def test_gspo_clips_whole_sequences(init: Path):
    """The ratio is the geometric mean over the answer, so all its tokens are clipped together."""
    cfg = replace(grpo.GRPO_VARIANTS["gspo"], n=3, prompts=6, minibatch=6)
    method = algorithm(init, Letters(), cfg)
    found = method.experience(drawn(init, 3))
    nudge(method.models.policy)
    source, _ = online(lambda g: found, RolloutShape(6, 3, 1, 1, 6), init)
    (batch,) = source._batches(0, 0, found)
    out = method.models.policy(batch.tokens)
    ratio = Ragged(method.loss(out, batch)["policy"].metrics["ratio"], *owners(batch))
    want = (out.logp - batch.old_logp).mean().exp()
    torch.testing.assert_close(ratio.values, ratio.expand(want).values)


def owners(batch: Any) -> tuple[Tensor, int]:
    return batch.tokens.owner, batch.tokens.n


def test_group_advantages(init: Path):
    """(r - mean)/std, r - mean and r - mean of the rest; k1 in the reward shifts the scores."""
    groups = drawn(init, 4)
    base = replace(GRPO, prompts=6, n=4)
    r = np.tile(np.arange(4.0), (6, 1))
    want = {
        "mean": r - r.mean(1, keepdims=True),
        "std": (r - r.mean(1, keepdims=True)) / (r.std(1, ddof=1, keepdims=True) + 1e-4),
        "rest": (r - r.mean(1, keepdims=True)) * 4 / 3,
    }
    for kind, advantage in want.items():
        cfg = replace(base, advantage=kind)
        found = algorithm(init, Picky(()), cfg).experience(groups)
        first = [row[0].item() for row in found.columns["advantages"].rows()]
        np.testing.assert_allclose(first, advantage.ravel(), rtol=1e-5, atol=1e-6)


# --- adapters, export, resume ---------------------------------------------------------------------


@pytest.mark.parametrize("value", ["separate", "shared"])
def test_adapters_climb_and_the_reference_is_the_policy_without_them(
    value: Any, init: Path, tmp_path: Path
):
    heard = Heard()
    machine = replace(FP32, lora=Lora(rank=2, alpha=4.0))
    cfg = replace(PPO, value=value, optim=replace(FAST, lr=0.02))
    done = climbed(ppo, cfg, init, tmp_path, machine=machine, heard=heard)
    assert abs(heard.of("round")[0]["kl"]) < 1e-5
    assert abs(heard.of("round")[1]["kl"]) > 1e-4
    assert (done.path / "adapter").is_dir()
    before, after = loading.load_policy(init, FP32), loading.load_policy(done.path, FP32)
    moved = [
        not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    ]
    assert any(moved)


class Falling:
    """A judge that likes the policy less at every evaluation but one: the best is not the last."""

    name = "falling"

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        value = next(self.values)
        for g in groups:
            yield replace(g, scores=np.full(len(g), value))


def test_the_best_policy_by_the_chosen_judge_is_exported(init: Path, tmp_path: Path):
    """Truth peaks after the second of four rounds: what is exported is what two rounds give."""
    four = replace(PPO, rounds=4, optim=replace(FAST, schedule="constant"))

    def watched(place: str, choose: str | None, values: list[float], cfg: Any, heard: Heard) -> Any:
        judges = (("truth", Falling(values)),)
        validation = Validation(prompts(init, 3, seed=9), judges, choose=choose, every=1)
        return climbed(ppo, cfg, init, tmp_path / place, heard=heard, validation=validation)

    heard = Heard()
    best = watched("best", "truth", [0.0, 1.0, 3.0, 2.0, 1.0], four, heard)
    last = watched("last", None, [0.0, 1.0, 3.0, 2.0, 1.0], four, Heard())
    two = watched("two", None, [0.0] * 3, replace(four, rounds=2), Heard())
    assert [line["round"] for line in heard.of("watch")] == [0, 1, 2, 3, 4]
    assert heard.of("chosen")[0]["round"] == 2
    assert best.hash == two.hash
    assert best.hash != last.hash
    assert {"proxy", "truth", "kl", "length", "stopped"} <= set(heard.of("watch")[0])
    assert abs(heard.of("watch")[0]["kl"]) < 1e-4
    assert len(heard.of("sample")) == 3 * 5
    for point, told in zip(heard.of("watch"), heard.of("watched"), strict=True):
        assert set(told) == set(point)
        assert all(len(told[k]) == 3 for k in set(point) - {"kind", "round"})
        assert np.mean(told["kl"]) == pytest.approx(point["kl"], abs=1e-4)


def test_early_stopping_ends_after_its_patience_and_exports_the_best(init: Path, tmp_path: Path):
    """Truth falls after round 1; with a patience of 2 the climb ends after round 3 of 9."""
    judges = (("truth", Falling([0.0, 3.0, 2.0, 1.0])),)
    validation = Validation(prompts(init, 3), judges, choose="truth", every=1, patience=2)
    heard = Heard()
    cfg = replace(PPO, rounds=9)
    climbed(ppo, cfg, init, tmp_path, heard=heard, validation=validation)
    assert [line["round"] for line in heard.of("round")] == [1, 2, 3]
    assert heard.of("enough")[0]["round"] == 3
    assert heard.of("chosen")[0]["round"] == 1


@pytest.mark.parametrize("method", [ppo, grpo], ids=["ppo", "grpo"])
def test_a_climb_that_was_killed_at_any_step_ends_the_same(method: Any, init: Path, tmp_path: Path):
    """At the first step, at the end of a round, inside one, and at the end of the last.

    The curve of the watch has every point, also where the kill came between the last step of a
    round and its evaluation.
    """
    cfg = PPO if method is ppo else replace(GRPO, kl="reward", inner=1, rounds=4)

    def run(place: str, heard: Heard) -> Checkpoint:
        validation = Validation(prompts(init, 3, seed=9), (("truth", Letters()),), "truth", every=1)
        return climbed(method, cfg, init, tmp_path / place, heard=heard, validation=validation)

    heard = Heard()
    calm = run("calm", heard)
    curve = [(line["round"], line["truth"], line["kl"]) for line in heard.of("watch")]
    for dies_at in (1, 4, 6, 8):
        parts = [Heard(dies_at), Heard()]
        with pytest.raises(KeyboardInterrupt):
            run(f"torn{dies_at}", parts[0])
        torn = run(f"torn{dies_at}", parts[1])
        assert torn.hash == calm.hash
        both = [line for part in parts for line in part.of("watch")]
        assert sorted({(x["round"], x["truth"], x["kl"]) for x in both}) == curve
        assert parts[1].of("round")[-1]["proxy"] == heard.of("round")[-1]["proxy"]


@pytest.mark.parametrize(
    ("told", "same"),
    [
        ([(b"a", [1.0, math.nan]), (b"a", [1.001, math.nan])], True),
        ([(b"a", [1.0]), (b"b", [1.0])], False),
        ([(b"a", [1.0]), (b"a", [1.2])], False),
        ([(b"a", [1.0]), (b"a", [1.008]), (b"a", [1.016])], False),
    ],
)
def test_processes_have_one_round_or_none_goes_on(told, same):
    assert is_one_round(told) == same

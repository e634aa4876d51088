"""Iterated RLHF: label what the policy says now, fit everything again. Bai et al. 2022,
arXiv:2204.05862, section 4.5.

    tranche 0: comparisons that are there, or of pi_sft's answers
    for each round t:
        1. r_t: a reward fitted from scratch to all tranches, mixed
        2. pi_t: a policy trained from pi_sft on r_t, pulled to pi_sft
        3. tranche t: the deployed snapshots answer new prompts; a judge compares two answers
    at the end: the snapshots of all rounds meet, and are placed by Elo above pi_sft

"Online" is to collect again and fit from scratch, not to update in place. The judge may be people:
a round then writes its questions, the run waits, and the same command goes on when votes are there.

Departures: a round deploys the last policies of rounds, not several steps of one; part of every
tranche is held out, by prompt, to see how accurate each reward is where; old tranches may be
dropped (`memory`) where tastes move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.errors.ranges import Count, CountOrZero, Positive, Range, Share, check_ranges
from tandem.judges import Judge
from tandem.judges.agreement import Equivalence
from tandem.judges.ai_feedback import AIFeedback
from tandem.judges.human import HumanVotes
from tandem.judges.reward_model import RewardModel
from tandem.judges.semantic import find_equivalence
from tandem.judges.templates import FeedbackFormats
from tandem.methods import dpo, ppo, reward, rlp
from tandem.methods.configs import SHARED
from tandem.methods.dpo import DPOConfig
from tandem.methods.ppo import PPOConfig
from tandem.methods.reward import RewardConfig
from tandem.methods.rlp import RLPConfig
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.combining import mix
from tandem.stages.evaluate_policy import kl_temperature
from tandem.stages.evaluate_rounds import evaluate_rounds, meet_policies
from tandem.stages.judging import judge
from tandem.stages.pair_pool import select_pairs
from tandem.stages.sampling import sample
from tandem.stages.tranches import is_measured_only, is_remembered, portion_of, questions_of


@dataclass(frozen=True)
class IteratedRLHFConfig:
    """Settings of iterated RLHF.

    >>> IteratedRLHFConfig(rounds=3, labels=100, growth=1.5).sizes
    (100, 150, 225)

    Attributes:
        rounds: T, how often reward and policy are fitted.
        labels: questions of the first tranche; given comparisons take its place.
        growth: how much larger each tranche is than the one before.
        snapshots: how many of the last policies answer a tranche's prompts.
        acquisition: which pairs of a pool are asked about: any, those that tell the most about a
            reward linear in the last layer (`d_optimal`), the same among moderate predicted gaps,
            or the least certain ones.
        pool: pairs that are drawn for each that is asked about.
        uniform: share of the chosen pairs that is drawn all the same.
        annotator: who compares: the task's own, a language model, or people.
        need: people: share of a round's questions that must be dealt with before it goes on.
        held_out: share of each tranche's prompts on which rewards are only measured.
        memory: which tranches a reward is fitted to: all, the last ones, or the older the fewer.
        window: tranches that `window` keeps.
        decay: share of a tranche that `decay` keeps, for each round of age.
        free_labels: add RLP-SPG's pairs, on which the policy agrees with itself, between rounds.
        learn: what is made of a round's labels: ppo on the reward, or dpo.
        comparisons: questions about snapshots of different rounds, for Elo; 0 leaves them out.
        asking: annotator = model: which, and how.
        reward: every reward's settings.
        ppo: every policy's settings.
        dpo: the same, for learn = dpo.
        rlp: settings of the free labels.
    """

    rounds: Count = 3
    labels: CountOrZero = 200
    growth: Positive = 1.0
    snapshots: Count = 2
    acquisition: Literal["random", "d_optimal", "moderate", "entropy"] = "random"
    pool: Count = 4
    uniform: Share = 0.1
    annotator: Literal["task", "model", "people"] = "task"
    need: Annotated[float, Range(0, 1, above=True)] = 0.8
    held_out: Annotated[float, Range(0, 1, below=True)] = 0.1
    memory: Literal["all", "window", "decay"] = "all"
    window: Count = 2
    decay: Share = 0.5
    free_labels: bool = False
    learn: Literal["ppo", "dpo"] = "ppo"
    comparisons: CountOrZero = 200
    asking: AIFeedback = field(default=AIFeedback())
    reward: RewardConfig = field(default_factory=RewardConfig, metadata=SHARED)
    ppo: PPOConfig = field(default_factory=PPOConfig, metadata=SHARED)
    dpo: DPOConfig = field(default_factory=DPOConfig, metadata=SHARED)
    rlp: RLPConfig = field(default_factory=RLPConfig, metadata=SHARED)

    def __post_init__(self) -> None:
        check_ranges(self, "iterated_rlhf")

    @property
    def drawn(self) -> int:
        """Prompts that are drawn for each question."""
        return 1 if self.acquisition == "random" else self.pool

    @property
    def sizes(self) -> tuple[int, ...]:
        """Questions of each tranche."""
        return tuple(round(self.labels * self.growth**t) for t in range(self.rounds))


@dataclass(frozen=True)
class Annotators:
    """Who answers each round's questions.

    Attributes:
        run: its folder holds the files of questions and votes, under `ask`.
        humans: the task's annotator, or None.
        model: the language model that labels, where nothing else is named.
        formats: how a language model is asked.
        cfg: which of them it is.
    """

    run: Run
    humans: Judge | None
    model: Checkpoint
    formats: FeedbackFormats
    cfg: IteratedRLHFConfig

    def of_round(self, name: str, t: int) -> Judge:
        """Return the judge of a round; one whose taste moves has an `at_round`.

        Raises:
            ConfigError: the task has no annotator.
        """
        if self.cfg.annotator == "people":
            return HumanVotes(self.run.path / "ask" / name, self.cfg.need)
        if self.cfg.annotator == "model":
            compare, principles = self.formats.compare, self.formats.principles
            return self.cfg.asking.labeller(self.model, compare, principles)
        if self.humans is None:
            raise ConfigError(
                "iterated_rlhf.annotator = task, and the data brings nobody to ask",
                "every round asks somebody about new answers",
                "give --iterated_rlhf.annotator people, or model",
            )
        return judge_of_round(self.humans, t)


def judge_of_round(judge: Judge, t: int) -> Judge:
    """Return a judge as it is in a round: one whose taste moves says so with `at_round`."""
    return judge.at_round(t) if hasattr(judge, "at_round") else judge  # type: ignore[attr-defined]


def recipe(
    run: Run,
    base: Checkpoint,
    pi_sft: Checkpoint,
    given_pairs: Groups | None,
    prompts: Groups,
    humans: Judge | None,
    formats: FeedbackFormats,
    same: Mapping[str, Equivalence],
    truth: Judge | None,
    sampling: Sampling,
    cfg: IteratedRLHFConfig = IteratedRLHFConfig(),
) -> Checkpoint:
    """Prompts and somebody who compares in; the last round's policy out."""
    asked = Annotators(run, humans, base, formats, cfg)
    policies, rewards = [pi_sft], list[Checkpoint]()
    tranches = [] if given_pairs is None else [given_pairs]
    if given_pairs is None:
        tranches.append(ask_tranche(run, 0, policies, rewards, prompts, (), sampling, asked))
    free = Groups.of(())
    for t in range(1, cfg.rounds + 1):
        scope = run if t == 1 else run.scope(f"round-{t}")
        D = training_part(tranches, cfg, given=given_pairs is not None) + free
        r = reward.recipe(scope, pi_sft, D, cfg.reward)  # 1
        pi = fit_policy_of_round(scope, t, pi_sft, prompts, D, r, sampling, cfg)  # 2
        policies, rewards = [*policies, pi], [*rewards, r]
        if t == cfg.rounds or not (cfg.sizes[t] or cfg.free_labels):
            break
        if cfg.sizes[t]:
            deployed = policies[-cfg.snapshots :]
            more = ask_tranche(run, t, deployed, rewards, prompts, tranches, sampling, asked)  # 3
            tranches.append(more)
        if cfg.free_labels:
            own = (k for k, g in enumerate(prompts) if not is_measured_only(g, cfg.held_out))
            free = agreed_pairs(scope, pi, prompts.take(own), r, same, sampling, cfg.rlp)
    given = given_pairs is not None
    held = tuple(held_out_part(D, cfg, given=given and not k) for k, D in enumerate(tranches))
    log_rounds(run, policies, rewards, tranches, held, prompts, truth, sampling, asked)
    return policies[-1]


def fit_policy_of_round(
    run: Run,
    t: int,
    pi_sft: Checkpoint,
    prompts: Groups,
    D: Groups,
    r: Checkpoint,
    sampling: Sampling,
    cfg: IteratedRLHFConfig,
) -> Checkpoint:
    """Train a fresh policy from the start, on the reward or on the comparisons themselves."""
    if cfg.learn == "dpo":
        return run("dpo", dpo.fit, pi_sft, D, cfg.dpo, name=f"DPO-{t}")
    name = f"PPO-{t}"
    return run(
        "ppo", ppo.fit, pi_sft, prompts, RewardModel(r), cfg.ppo, sampling=sampling, name=name
    )


def agreed_pairs(
    run: Run,
    pi: Checkpoint,
    prompts: Groups,
    r: Checkpoint,
    same: Mapping[str, Equivalence],
    sampling: Sampling,
    cfg: RLPConfig,
) -> Groups:
    """Free labels: RLP-SPG's pairs of the new policy's samples."""
    P = run("samples", sample, pi, prompts, n=cfg.n, sampling=sampling)
    return rlp.synthetic_pairs_of(run, P, r, find_equivalence(cfg.same, same), cfg)


def ask_tranche(
    run: Run,
    t: int,
    deployed: Sequence[Checkpoint],
    rewards: Sequence[Checkpoint],
    prompts: Groups,
    before: Sequence[Groups],
    sampling: Sampling,
    asked: Annotators,
) -> Groups:
    """Have two answers of deployed snapshots compared, for each of the tranche's prompts."""
    cfg, n = asked.cfg, len(prompts)
    sizes, shuffle = [size * cfg.drawn for size in cfg.sizes], portion_seed(run)
    X = run(f"asked-{t}", portion_of, prompts, sum(sizes[:t]), sizes[t], seed=shuffle)
    written = tuple(
        run(f"answers-{t}-by-{k}", sample, pi, X, n=2, sampling=sampling)
        for k, pi in enumerate(deployed)
    )
    pairs = run(f"pairs-{t}", mix, written, (1.0,) * len(written), n=2)
    if cfg.acquisition != "random":
        pairs = choose_questions(run, t, pairs, rewards[-1:] or deployed[-1:], cfg)
    last = before[-1] if before else Groups.of(())
    questions = run(f"questions-{t}", questions_of, pairs, last)
    log_questions(run, t, questions, sum(sizes[: t + 1]), n)
    return run(f"tranche-{t}", judge, questions, asked.of_round(f"tranche-{t}", t))


def choose_questions(
    run: Run, t: int, pairs: Groups, models: Sequence[Checkpoint], cfg: IteratedRLHFConfig
) -> Groups:
    """Choose a tranche's pairs by what the last reward sees, or the policy where there is none.

    On prompts that are held out pairs are drawn, because chosen ones are harder than others.
    """
    held = [g for g in pairs if is_measured_only(g, cfg.held_out)]
    held = held[: round(cfg.held_out * cfg.sizes[t])]
    rest = pairs.take(k for k, g in enumerate(pairs) if not is_measured_only(g, cfg.held_out))
    rule = cfg.acquisition if t else "d_optimal"
    keep = cfg.sizes[t] - len(held)
    chosen = run(f"chosen-{t}", select_pairs, rest, tuple(models), keep, rule, cfg.uniform)
    return Groups.of([*held, *chosen])


def portion_seed(run: Run) -> Seed:
    """Return the seed that shuffles the prompts once, for all portions of a run."""
    return run.seed.at("questions")


def log_questions(run: Run, t: int, questions: Groups, so_far: int, prompts: int) -> None:
    """Log how many questions a tranche has, and whether its prompts are still new ones."""
    again = "" if so_far <= prompts else f"; {so_far} are more than the {prompts} prompts"
    text = f"tranche {t}: {len(questions)} questions, without pairs of equal answers{again}"
    run.events.log("questions", tranche=t, questions=len(questions), text=text)


def training_part(
    tranches: Sequence[Groups], cfg: IteratedRLHFConfig, *, given: bool = False
) -> Groups:
    """Return what a reward is fitted to: the tranches that are remembered, mixed.

    Args:
        tranches: oldest first.
        cfg: what is held out and what is forgotten.
        given: the first tranche came with the data, whose held-out part is elsewhere.
    """
    kept: list[Group] = []
    for k, tranche in enumerate(tranches):
        age = len(tranches) - 1 - k
        if cfg.memory == "window" and age >= cfg.window:
            continue
        share = cfg.decay**age if cfg.memory == "decay" else 1.0
        out = 0.0 if given and k == 0 else cfg.held_out
        kept += [
            g
            for g in tranche
            if g.preferences and not is_measured_only(g, out) and is_remembered(g, share)
        ]
    return Groups.of(kept)


def held_out_part(tranche: Groups, cfg: IteratedRLHFConfig, *, given: bool = False) -> Groups:
    """Return a tranche's comparisons on which rewards are only measured; of given ones, none."""
    if given:
        return Groups.of(())
    return Groups.of(g for g in tranche if g.preferences and is_measured_only(g, cfg.held_out))


def log_rounds(
    run: Run,
    policies: Sequence[Checkpoint],
    rewards: Sequence[Checkpoint],
    tranches: Sequence[Groups],
    held_out: Sequence[Groups],
    prompts: Groups,
    truth: Judge | None,
    sampling: Sampling,
    asked: Annotators,
) -> dict[str, Any]:
    """Let the snapshots of all rounds meet on new prompts, and lay out what each round brought."""
    cfg, last = asked.cfg, len(policies) - 1
    size = max(cfg.comparisons, math.comb(len(policies), 2))
    start = sum(cfg.sizes) * cfg.drawn
    X = run("met-on", portion_of, prompts, start, size, seed=portion_seed(run))
    answers = tuple(
        run(f"met-{k}", sample, pi, X, n=1, sampling=sampling) for k, pi in enumerate(policies)
    )
    met = None
    if cfg.comparisons:
        pairs = run("meetings", meet_policies, answers)
        met = run("comparisons", judge, pairs, asked.of_round("comparisons", last))
    return run(
        "rounds",
        evaluate_rounds,
        tuple(policies),
        tuple(RewardModel(r) for r in rewards),
        tuple(tranches),
        tuple(held_out),
        answers,
        met,
        None if truth is None else judge_of_round(truth, last),
        temperature=kl_temperature(sampling),
    )

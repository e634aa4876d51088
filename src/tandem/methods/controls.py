"""What could explain RLP's gain away: its controls, and labels from elsewhere.

Each is RLP with one thing changed, and shares with it every stage that did not: names and arguments
are the same, so a run that holds both does them once.

    longer       PPO for the same compute: twice the rounds, the old reward
    retrained    the reward fitted again to D alone, with another seed
    relabelled   SPG's own pairs, labelled by the annotator: what true labels would give
    shuffled     SPG with its clusters dealt at random
    by_reward    as many pairs of the policy's samples, labelled by the old reward (RLAIF by r_phi)
    by_policy    the same pairs, labelled by the policy that wrote them (RLAIF by pi_theta)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.judges import Judge
from tandem.judges.agreement import Equivalence
from tandem.judges.ai_feedback import AIFeedback
from tandem.judges.reward_model import RewardModel
from tandem.judges.semantic import find_equivalence
from tandem.judges.templates import FeedbackFormats
from tandem.methods import ppo, reward, rlp
from tandem.methods.rlp import RLPConfig
from tandem.operators import rank_pairs, shuffled_clusters, synthetic_pairs
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.stages.selection import select
from tandem.training.validation import Validation


def longer_ppo(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    r_phi: Checkpoint,
    sampling: Sampling,
    validation: Validation | None,
    cfg: RLPConfig = RLPConfig(),
) -> Checkpoint:
    """PPO with as many rounds as all of RLP's policies together."""
    whole = replace(cfg.ppo, rounds=cfg.ppo.rounds * (cfg.rounds + 1))
    more = {"sampling": sampling, "validation": validation, "name": "PPO-longer"}
    return run("ppo-longer", ppo.fit, pi_sft, prompts, RewardModel(r_phi), whole, **more)


def retrained_reward(
    run: Run,
    pi_sft: Checkpoint,
    D: Groups,
    prompts: Groups,
    sampling: Sampling,
    validation: Validation | None,
    cfg: RLPConfig = RLPConfig(),
) -> Checkpoint:
    """A reward fitted to D again (a stage's seed hangs on its name), and PPO on it."""
    r_again = run("reward-again", reward.fit, pi_sft, D, cfg.reward, name="reward-again")
    return rlp.refit_policy(run, "again", pi_sft, prompts, r_again, sampling, validation, cfg)


def annotator_labels(
    run: Run,
    pi_sft: Checkpoint,
    D: Groups,
    prompts: Groups,
    same: Mapping[str, Equivalence],
    humans: Judge,
    sampling: Sampling,
    validation: Validation | None,
    cfg: RLPConfig = RLPConfig(),
) -> Checkpoint:
    """SPG's pairs with the annotator's labels in place of the majority's: an upper bound."""

    def labels(P: Groups, D_hat: Groups, r: Checkpoint) -> Groups:
        return run("pairs-relabelled", judge, D_hat, humans)

    return _instead(run, "relabelled", labels, pi_sft, D, prompts, same, sampling, validation, cfg)


def shuffled_clusters_control(
    run: Run,
    pi_sft: Checkpoint,
    D: Groups,
    prompts: Groups,
    same: Mapping[str, Equivalence],
    sampling: Sampling,
    validation: Validation | None,
    cfg: RLPConfig = RLPConfig(),
) -> Checkpoint:
    """SPG whose clusters mean nothing: as many pairs, of the same prompts."""

    def labels(P: Groups, D_hat: Groups, r: Checkpoint) -> Groups:
        agree = find_equivalence(cfg.same, same)
        dealt = run("shuffled", select, rlp.judge_samples(run, P, r, agree), shuffled_clusters())
        pairs = synthetic_pairs(cfg.gamma or 0.0, cfg.confidence, cfg.winner)
        return run("pairs-shuffled", select, dealt, pairs)

    return _instead(run, "shuffled", labels, pi_sft, D, prompts, same, sampling, validation, cfg)


def human_pairs_reward(
    run: Run,
    pi_sft: Checkpoint,
    D: Groups,
    prompts: Groups,
    same: Mapping[str, Equivalence],
    sampling: Sampling,
    validation: Validation | None,
    cfg: RLPConfig = RLPConfig(),
) -> Checkpoint:
    """Control for SPG: as many pairs of the policy's answers, labelled by its own reward."""

    def labels(P: Groups, D_hat: Groups, r: Checkpoint) -> Groups:
        asked = run("asked", first_two, P, len(D_hat))
        scored = run("asked-scored", judge, asked, RewardModel(r))
        return run("pairs-by-reward", select, scored, rank_pairs())

    return _instead(run, "by-reward", labels, pi_sft, D, prompts, same, sampling, validation, cfg)


def human_pairs_policy(
    run: Run,
    pi_sft: Checkpoint,
    D: Groups,
    prompts: Groups,
    same: Mapping[str, Equivalence],
    formats: FeedbackFormats,
    sampling: Sampling,
    validation: Validation | None,
    cfg: RLPConfig = RLPConfig(),
) -> Checkpoint:
    """As many of the policy's pairs, and the policy is asked which is better."""

    def labels(P: Groups, D_hat: Groups, r: Checkpoint) -> Groups:
        asked = run("asked", first_two, P, len(D_hat))
        pi_theta = ppo.recipe(run, pi_sft, prompts, r, sampling, validation, cfg.ppo)
        who = AIFeedback(hard=True).labeller(pi_theta, formats.compare, formats.principles)
        return run("pairs-by-policy", judge, asked, who)

    return _instead(run, "by-policy", labels, pi_sft, D, prompts, same, sampling, validation, cfg)


def first_two(P: Groups, count: int) -> Groups:
    """The first two samples of the first prompts."""
    return Groups.of(Group(g.prompt, g.completions[:2]) for g in P[:count])


LabelRule = Callable[[Groups, Groups, Checkpoint], Groups]
"""(P, SPG's D_hat, the old reward) -> the pairs to learn from in place of D_hat."""


def _instead(
    run: Run,
    tag: str,
    labels: LabelRule,
    pi_sft: Checkpoint,
    D: Groups,
    prompts: Groups,
    same: Mapping[str, Equivalence],
    sampling: Sampling,
    validation: Validation | None,
    cfg: RLPConfig,
) -> Checkpoint:
    """Algorithm 1 with other labels in line 4."""
    r = reward.recipe(run, pi_sft, D, cfg.reward)
    pi = ppo.recipe(run, pi_sft, prompts, r, sampling, validation, cfg.ppo)
    P = run("samples", sample, pi, prompts, n=cfg.n, sampling=sampling)
    D_hat = labels(P, rlp.synthetic_pairs_of(run, P, r, find_equivalence(cfg.same, same), cfg), r)
    r_hat = rlp.refit_reward(run, tag, pi_sft, D + D_hat, P, r, cfg)
    return rlp.refit_policy(run, tag, pi_sft, prompts, r_hat, sampling, validation, cfg)


CONTROLS: dict[str, Callable[..., Checkpoint]] = {
    "longer": longer_ppo,
    "retrained": retrained_reward,
    "relabelled": annotator_labels,
    "shuffled": shuffled_clusters_control,
    "by-reward": human_pairs_reward,
    "by-policy": human_pairs_policy,
}
"""By name; each names its inputs as a method's recipe does (`tandem.methods.INPUTS`)."""

"""RLP: RLHF with reward learning on policy. Lang et al. 2024, arXiv:2403.19279, Algorithm 1.

A reward fitted to samples of pi_sft is read, by PPO, where it was never fitted. So after PPO it is
fitted again, with the policy's own samples: as views whose shared meaning its features must keep
(RLP-UML, `objectives.multiview`), or as pairs in which the majority wins (RLP-SPG,
`operators.synthetic_pairs`). Then PPO starts again from pi_sft.

Where the paper is silent: the new reward starts from pi_sft with a fresh head; one pair a kept
prompt, shuffled among D; D_hat is made with the old reward; a further round uses the newest policy,
reward and pairs. The paper never has both at once to keep cost down; here `gamma` and `lam` do not
exclude each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors.ranges import MANY, Count, NotNegative, Range, Share, check_ranges
from tandem.judges.agreement import Agreement, Equivalence
from tandem.judges.reward_model import RewardModel
from tandem.judges.semantic import find_equivalence
from tandem.methods import ppo, reward
from tandem.methods.configs import SHARED
from tandem.methods.ppo import PPOConfig
from tandem.methods.reward import RewardConfig
from tandem.operators import synthetic_pairs
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.stages.selection import select
from tandem.training.multiview import MultiViewConfig
from tandem.training.validation import Validation


@dataclass(frozen=True)
class RLPConfig:
    """Settings of RLP; defaults are the paper's RLP-SPG.

    >>> RLPConfig(gamma=0.5).n  # RLP-SPG: most of ten answers agree
    10
    >>> RLPConfig(gamma=None, lam=0.5).lam  # RLP-UML
    0.5

    Attributes:
        n: completions per prompt in P.
        gamma: SPG: confidence that a prompt needs, |g| / n; 0 selects all; None leaves SPG out.
        lam: UML: weight of L_M; the paper's is 0.5, with gamma = None.
        same: what makes two completions the same: `task`, exact, answer, embedding, nli:FOLDER.
        confidence: `>=` as the paper writes; the slide's is `>`.
        winner: y_w is the best of the majority by the old reward, or a uniform one (the slide).
        rounds: how often reward and policy are learned again; Figure 1 is a cycle.
        rm_init: the new reward starts from pi_sft, or from the body of the previous reward.
        uml: settings of multi-view learning.
        reward: settings of both reward models.
        ppo: settings of both policies.
    """

    n: Annotated[int, Range(2, MANY)] = 10
    gamma: Share | None = 0.5
    lam: NotNegative = 0.0
    same: str = "task"
    confidence: Literal[">=", ">"] = ">="
    winner: Literal["argmax_reward", "uniform"] = "argmax_reward"
    rounds: Count = 1
    rm_init: Literal["sft", "prev"] = "sft"
    uml: MultiViewConfig = MultiViewConfig()
    reward: RewardConfig = field(default_factory=RewardConfig, metadata=SHARED)
    ppo: PPOConfig = field(default_factory=PPOConfig, metadata=SHARED)

    def __post_init__(self) -> None:
        check_ranges(self, "rlp")

    @property
    def variant(self) -> str:
        """A name for stages: `spg`, `uml`, `uml-spg`, their ablations, `again` for neither."""
        uml = {"mib": "uml"}.get(self.uml.objective, f"uml-{self.uml.objective}")
        spg = "spg" if self.gamma else "spg-all"
        spg += "-uniform" if self.winner == "uniform" else ""
        parts = [uml] * (self.lam > 0) + [spg] * (self.gamma is not None)
        return "-".join(parts) or "again"


SPG, UML_ALONE = RLPConfig(), RLPConfig(gamma=None, lam=0.5)
RLP_VARIANTS: dict[str, RLPConfig] = {
    "spg": SPG,
    "uml": UML_ALONE,
    "uml-spg": RLPConfig(lam=0.5),
    "spg-all": replace(SPG, gamma=0.0),
    "spg-uniform": replace(SPG, winner="uniform"),
    "uml-infomax": replace(UML_ALONE, uml=MultiViewConfig(objective="infomax")),
    "uml-multiview-infomax": replace(UML_ALONE, uml=MultiViewConfig(objective="multiview-infomax")),
    "uml-contrastive": replace(UML_ALONE, uml=MultiViewConfig(objective="contrastive")),
}
"""The paper's two methods, their sum, and its ablations (tables 5 and 6), by `variant`."""


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    D: Groups,
    prompts: Groups,
    same: Mapping[str, Equivalence],
    sampling: Sampling,
    validation: Validation | None,
    cfg: RLPConfig = RLPConfig(),
) -> Checkpoint:
    """Algorithm 1 with its line numbers at the right; line 1 is D."""
    agree = None if cfg.gamma is None else find_equivalence(cfg.same, same)
    r = reward.recipe(run, pi_sft, D, cfg.reward)  # 2
    pi = ppo.recipe(run, pi_sft, prompts, r, sampling, validation, cfg.ppo)  # 3
    for k in range(cfg.rounds):
        scope = run.scope(f"{cfg.variant}-round-{k + 1}") if k else run
        P = scope("samples", sample, pi, prompts, n=cfg.n, sampling=sampling)
        D_hat = Groups.of(()) if agree is None else synthetic_pairs_of(scope, P, r, agree, cfg)
        r = refit_reward(scope, cfg.variant, pi_sft, D + D_hat, P, r, cfg)  # 4
        pi = refit_policy(scope, cfg.variant, pi_sft, prompts, r, sampling, validation, cfg)  # 5
    return pi


def judge_samples(run: Run, P: Groups, r: Checkpoint, agree: Equivalence) -> Groups:
    """Score the policy's samples with the old reward and cluster those that mean the same."""
    clusters = Agreement(agree, run.seed.at("agreement"))
    return run("opinions", judge, P, RewardModel(r), clusters)


def synthetic_pairs_of(
    run: Run, P: Groups, r: Checkpoint, agree: Equivalence, cfg: RLPConfig
) -> Groups:
    """D_hat: one pair for each prompt on which the policy mostly agrees with itself."""
    assert cfg.gamma is not None
    pairs = synthetic_pairs(cfg.gamma, cfg.confidence, cfg.winner)
    D_hat = run(f"pairs-{cfg.variant}", select, judge_samples(run, P, r, agree), pairs)
    log_synthetic_pairs(run, P, D_hat)
    return D_hat


def log_synthetic_pairs(run: Run, P: Groups, D_hat: Groups) -> None:
    """Log how many prompts were kept, and how much longer the preferred answers are."""
    lengths = [[len(c.tokens) for c in g.completions] for g in D_hat]
    chosen, other = np.mean(lengths, axis=0).tolist() if lengths else (0.0, 0.0)
    numbers = {"chosen_length": chosen, "other_length": other}
    run.events.log("synthetic", pairs=len(D_hat), of=len(P), **numbers)


def refit_reward(
    run: Run, tag: str, pi_sft: Checkpoint, D: Groups, P: Groups, r: Checkpoint, cfg: RLPConfig
) -> Checkpoint:
    """Fit the reward again: to D and D_hat, with the policy's samples as views if lambda > 0."""
    init = pi_sft if cfg.rm_init == "sft" else r
    views = P if cfg.lam > 0 else None
    more = {"views": views, "lam": cfg.lam, "uml": cfg.uml, "name": f"reward-{tag}"}
    return run(f"reward-{tag}", reward.fit, init, D, cfg.reward, **more)


def refit_policy(
    run: Run,
    tag: str,
    pi_sft: Checkpoint,
    prompts: Groups,
    r_hat: Checkpoint,
    sampling: Sampling,
    validation: Validation | None,
    cfg: RLPConfig,
) -> Checkpoint:
    """Train a new policy with PPO on the refitted reward; pi_sft is its start and KL reference."""
    climbed = {"sampling": sampling, "validation": validation, "name": f"RLP-{tag}"}
    return run(f"ppo-{tag}", ppo.fit, pi_sft, prompts, RewardModel(r_hat), cfg.ppo, **climbed)

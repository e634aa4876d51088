"""Iterative DPO: online DPO in large batches, with DPO as the fit.

    for each iteration t:
        1. K answers of pi_t to a batch of prompts
        2. the judge scores them
        3. pairs: each prompt's best against its worst
        4. pi_{t+1}: DPO from pi_t on these pairs

The reference stays pi_sft (Xu et al. 2023, arXiv:2312.16682, and most since), or is set to pi_t
each time (`reference = "reset"`, Yuan et al. 2024, arXiv:2401.10020). Reset, beta prices each
iteration's own step and not the distance from pi_sft: T iterations may go about T times as far.
The run's events say which of the two it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors.ranges import MANY, Count, NotNegative, Range, check_ranges
from tandem.judges import Judge
from tandem.judges.reward_model import reward_judge
from tandem.methods import dpo
from tandem.methods.dpo import DPOConfig
from tandem.methods.raft import stage_prompts
from tandem.operators import clean_pairs, rank_pairs
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.early_stopping import best_policy, run_validation, should_stop
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.stages.selection import select
from tandem.training.optim import Optim
from tandem.training.validation import Validation

RESET = (
    "the reference is set to the last policy at each iteration, so beta = {beta} prices a step of "
    "one iteration and not the distance from pi_sft; over {n} iterations the policy may go about "
    "{n} times as far"
)


@dataclass(frozen=True)
class IterativeDPOConfig:
    """Settings of iterative DPO.

    >>> IterativeDPOConfig(iterations=2, n=4).reference
    'fixed'

    Attributes:
        iterations: T, how often to sample and fit.
        prompts: prompts an iteration; all of them where there are fewer.
        n: K, answers a prompt.
        reference: `fixed` at pi_sft, or `reset` to the last policy.
        soft: labels sigmoid(difference of scores) in place of 1.
        gap: pairs whose scores are closer than this are left out.
        dpo: the fit of an iteration.
    """

    iterations: Count = 3
    prompts: Count = 2048
    n: Annotated[int, Range(2, MANY)] = 8
    reference: Literal["fixed", "reset"] = "fixed"
    soft: bool = False
    gap: NotNegative = 0.0
    dpo: DPOConfig = field(
        default_factory=lambda: DPOConfig(beta=0.1, epochs=1, batch=64, optim=Optim(lr=5e-7))
    )

    def __post_init__(self) -> None:
        check_ranges(self, "iterative_dpo")


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    r_phi: Checkpoint | Judge,
    sampling: Sampling,
    validation: Validation | None,
    cfg: IterativeDPOConfig = IterativeDPOConfig(),
) -> Checkpoint:
    """Prompts and a reward in, the best validated policy out."""
    return improve_policy(run, pi_sft, prompts, reward_judge(r_phi), sampling, validation, cfg)


def improve_policy(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    r: Judge,
    sampling: Sampling,
    validation: Validation | None,
    cfg: IterativeDPOConfig,
) -> Checkpoint:
    """Sample, score, pair and fit with any scoring judge, and repeat."""
    pi, shuffle = pi_sft, run.seed.at("portions")
    if cfg.reference == "reset" and cfg.iterations > 1:
        run.events.log("reference", text=RESET.format(beta=cfg.dpo.beta, n=cfg.iterations))
    history = [run_validation(run, "watch-0", pi, validation, sampling)]
    for t in range(1, cfg.iterations + 1):
        X = run(f"prompts-{t}", stage_prompts, prompts, cfg.prompts, t - 1, seed=shuffle)
        Y = run(f"samples-{t}", sample, pi, X, n=cfg.n, sampling=sampling)  # 1
        Y = run(f"scores-{t}", judge, Y, r)  # 2
        D = run(f"extremes-{t}", select, Y, rank_pairs("best-worst", cfg.soft))  # 3
        D = run(f"pairs-{t}", select, D, clean_pairs(cfg.gap))
        ref = pi_sft if cfg.reference == "fixed" else pi
        pi = run(f"policy-{t}", dpo.fit, pi, D, cfg.dpo, ref=ref, name=f"iterative DPO-{t}")  # 4
        history.append(run_validation(run, f"watch-{t}", pi, validation, sampling))
        if should_stop(history, validation):
            break
    return best_policy(history, validation).policy

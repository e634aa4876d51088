"""RAFT: reward ranked fine-tuning. Dong et al. 2023, arXiv:2304.06767, Algorithm 1.

    for each stage t:
        1. sample a batch of b prompts, K answers each from pi_t
        2. score them with r, or with r - beta log(pi_t / pi_0)
        3. keep each prompt's best (local ranking), or the best 1/K of all (global)
        4. pi_{t+1}: supervised fine-tuning of pi_t on what was kept

With exact fitting, T local stages are best-of-n with n = K^T, so they spend reward as fast and
amplify its errors as surely. Global ranking starves hard prompts. See docs/theory/raft.md.

Departure: a judge that did not rank says when to stop and which stage is kept, where the paper
stops by the mean of the reward that ranks. With `keep = "last"` it is the last stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.errors.ranges import MANY, Count, NotNegative, Range, check_ranges
from tandem.judges import Judge
from tandem.judges.reward_model import Shaped, reward_judge
from tandem.methods import sft
from tandem.methods.sft import SFTConfig
from tandem.operators import Operator, best, top_share
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.early_stopping import best_policy, run_validation, should_stop
from tandem.stages.evaluate_policy import kl_temperature
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.stages.selection import select
from tandem.training.optim import Optim
from tandem.training.validation import Validation, keep_last_policy


@dataclass(frozen=True)
class RAFTConfig:
    """Settings of RAFT; prompts, k, ranking, beta, and sft's epochs and rate are the paper's.

    >>> RAFTConfig(stages=2, prompts=256, k=8).k
    8

    Attributes:
        stages: T, how often to sample and fit.
        prompts: b, prompts a stage; all of them where there are fewer.
        k: K, answers a prompt.
        ranking: `local`, the best of each prompt; `global`, the best 1/K of all answers.
        beta: price of leaving pi_0, in the reward that ranks.
        keep: which policy is returned: the `best` by validation, or the `last`.
        sft: the fit of a stage.
    """

    stages: Count = 4
    prompts: Count = 2048
    k: Annotated[int, Range(2, MANY)] = 32
    ranking: Literal["local", "global"] = "local"
    beta: NotNegative = 0.0
    keep: Literal["best", "last"] = "best"
    sft: SFTConfig = field(default_factory=lambda: SFTConfig(epochs=2, optim=Optim(lr=2e-5)))

    def __post_init__(self) -> None:
        check_ranges(self, "raft")

    @property
    def rank(self) -> Operator:
        """What is kept of a stage's answers."""
        return best() if self.ranking == "local" else top_share(1 / self.k)

    @property
    def chooses_policy(self) -> bool:
        """False where the last policy is kept, whatever a judge says."""
        return self.keep == "best"

    def reward(self, r: Judge, pi: Checkpoint, pi_0: Checkpoint, sampling: Sampling) -> Judge:
        """The reward that ranks the answers of pi, drawn with this sampling.

        Raises:
            ConfigError: `beta` above 0, and answers that are greedy or truncated.
        """
        if not self.beta:
            return r
        temperature = kl_temperature(sampling)
        if temperature is None:
            raise ConfigError(
                f"raft.beta = {self.beta} with {sampling}",
                "greedy or truncated answers come from another law than the policy's own, and "
                "their log-ratio is no KL",
                "set raft.beta to 0, or sampling.temperature above 0, top_k = 0, top_p = 1 and "
                "min_p = 0",
            )
        return Shaped(r, pi, pi_0, self.beta, temperature=temperature)


def stage_prompts(prompts: Groups, size: int, turn: int, *, seed: Seed) -> Iterator[Group]:
    """Take the prompts of a stage: a shuffled collection read on and on, no prompt twice in one."""
    order = seed.rng().permutation(len(prompts))
    size = min(size, len(prompts))
    yield from (prompts[int(order[(turn * size + i) % len(prompts)])] for i in range(size))


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    r_phi: Checkpoint | Judge,
    sampling: Sampling,
    validation: Validation | None,
    cfg: RAFTConfig = RAFTConfig(),
) -> Checkpoint:
    """Sample, rank by a reward, fine-tune on the best, repeat; return the best validated policy."""
    pi, r, shuffle = pi_sft, reward_judge(r_phi), run.seed.at("portions")
    cfg.reward(r, pi, pi_sft, sampling)  # refuses a price that could not be read
    if not cfg.chooses_policy:
        validation = keep_last_policy(validation)
    history = [run_validation(run, "watch-0", pi, validation, sampling)]
    for t in range(1, cfg.stages + 1):
        X = run(f"prompts-{t}", stage_prompts, prompts, cfg.prompts, t - 1, seed=shuffle)
        Y = run(f"samples-{t}", sample, pi, X, n=cfg.k, sampling=sampling)  # 1
        Y = run(f"scores-{t}", judge, Y, cfg.reward(r, pi, pi_sft, sampling))  # 2
        B = run(f"kept-{t}", select, Y, cfg.rank)  # 3
        pi = run(f"policy-{t}", sft.fit, pi, B, cfg.sft, name=f"RAFT-{t}")  # 4
        history.append(run_validation(run, f"watch-{t}", pi, validation, sampling))
        if should_stop(history, validation):
            break
    return best_policy(history, validation).policy

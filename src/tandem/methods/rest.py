"""ReST: reinforced self-training, Grow and Improve. Gulcehre et al. 2023, arXiv:2308.08998.

    1. pi: behaviour cloning on D                                     (pi_sft is that)
    2. for g in 1..G:                                                 Grow
    3.     D_g = {(x, y): x ~ D, y ~ pi} and D; score everything with R
    4.     for i in 1..I:                                             Improve
    5.         choose tau_i > tau_{i-1}, and tau_1 > mean R
    6.         minimise E_{D_g} 1[R > tau_i] L(x, y; theta) from the current pi, lower rate each i,
               until evaluation stops improving

G1 I0 clones D_g unfiltered. With exact fitting the limit is pi (mixed with D's answers, if `mix`)
restricted to R > tau_I, whatever the steps before it. The event `threshold` says if tau_1 is not
above the mean. See docs/theory/rest.md.

Departures: fits have a fixed length, and judges that do not filter look between them. `patience`
Improves no better than what the Grow sampled from end it; the next samples from the Improve they
like best, never from the same policy again; the best of all is returned. With `keep = "last"` it
is the last Improve in both places, as in the paper.
Of the losses, B-VMPO, OAC and BVE are left out; `weighted` stands near the first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.errors.ranges import Count, CountOrZero, Decay, Positive, check_ranges
from tandem.judges import Judge
from tandem.judges.reward_model import reward_judge
from tandem.methods import sft
from tandem.methods.sft import SFTConfig
from tandem.operators import Scope, above
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.combining import merge
from tandem.stages.early_stopping import best_policy, run_validation, should_stop
from tandem.stages.encoding import encode
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.stages.selection import log_above_mean, select
from tandem.training.optim import Optim
from tandem.training.validation import Validation, keep_last_policy


@dataclass(frozen=True)
class ReSTConfig:
    """Settings of ReST; thresholds, of, scope, mix and (on WMT) improve are the paper's.

    >>> ReSTConfig(grow=1, improve=2, n=8).thresholds[:2]
    (0.7, 0.8)

    Attributes:
        grow: G, how often to sample.
        improve: I, fits on rising thresholds after each Grow; 0 fits once on everything.
        n: N_g, answers a prompt and Grow.
        thresholds: tau_1 < tau_2 < ..., of which the first I are used.
        of: on rewards scaled to [0, 1] over the scope (`unit`), or a `quantile` of them.
        scope: `global`, one threshold for all (hard prompts may vanish), or `per_prompt`.
        mix: keep D's own answers beside the samples.
        decay: learning rate of a fit over that of the Improve before.
        keep: which policy goes on and is returned: the `best` by validation, or the `last`.
        sft: the fit: loss nll (the best in the paper), weighted or gold.
    """

    grow: Count = 1
    improve: CountOrZero = 4
    n: Count = 8
    thresholds: tuple[Decay, ...] = (0.7, 0.8, 0.9, 0.95, 0.99)
    of: Literal["unit", "quantile"] = "unit"
    scope: Scope = "global"
    mix: bool = True
    decay: Positive = 0.5
    keep: Literal["best", "last"] = "best"
    sft: SFTConfig = field(default_factory=lambda: SFTConfig(epochs=1, optim=Optim(lr=1e-5)))

    def __post_init__(self) -> None:
        check_ranges(self, "rest")
        if min(self.grow, self.n) < 1 or not 0 <= self.improve <= len(self.thresholds):
            raise ConfigError(
                f"rest.grow = {self.grow}, rest.n = {self.n}, rest.improve = {self.improve} with "
                f"{len(self.thresholds)} thresholds",
                "each Improve has a threshold of its own, and a Grow samples something",
                "give grow and n of 1 or more, and 0 <= improve <= the number of thresholds",
            )
        rising = all(a < b for a, b in pairwise((*self.thresholds, 1.0)))
        if not rising or min(self.thresholds, default=0) < 0:
            raise ConfigError(
                f"rest.thresholds = {list(self.thresholds)}",
                "every Improve is stricter than the one before, and nothing lies above 1",
                "give rising numbers, 0 <= tau < 1",
            )

    @property
    def chooses_policy(self) -> bool:
        """False where the last policy is kept, whatever a judge says."""
        return self.keep == "best"

    def filter(self, i: int) -> above:
        """1[R > tau_i]; i from 1."""
        tau = self.thresholds[i - 1]
        if self.of == "quantile":
            return above(quantile=tau, scope=self.scope)
        return above(tau=tau, scope=self.scope, unit=True)

    def fit(self, i: int) -> SFTConfig:
        """The i-th fit after a Grow, at its own learning rate; i from 0."""
        rate = self.sft.optim.lr * self.decay ** max(0, i - 1)
        return replace(self.sft, optim=replace(self.sft.optim, lr=rate))


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    demonstrations: Groups,
    r_phi: Checkpoint | Judge,
    sampling: Sampling,
    validation: Validation | None,
    cfg: ReSTConfig = ReSTConfig(),
) -> Checkpoint:
    """Sample (Grow), fit on answers above rising thresholds (Improve); return the best policy."""
    if not cfg.chooses_policy:
        validation = keep_last_policy(validation)
    R = reward_judge(r_phi)
    D = run("original", encode, demonstrations, pi_sft, room=sampling.max_tokens)
    start = best = run_validation(run, "watch-0", pi_sft, validation, sampling)  # 1
    for g in range(1, cfg.grow + 1):  # 2
        pi, tried = start.policy, [start]
        D_g = run(f"grown-{g}", sample, pi, D, n=cfg.n, sampling=sampling)  # 3
        D_g = run(f"mixed-{g}", merge, D_g, D) if cfg.mix else D_g
        D_g = run(f"scores-{g}", judge, D_g, R)
        for i in range(1, cfg.improve + 1) or [0]:  # 4
            if i == 1:
                run(f"threshold-{g}", log_above_mean, D_g, cfg.filter(i))
            kept = run(f"kept-{g}-{i}", select, D_g, cfg.filter(i)) if i else D_g  # 5
            pi = run(f"policy-{g}-{i}", sft.fit, pi, kept, cfg.fit(i), name=f"ReST-G{g}I{i}")  # 6
            tried.append(run_validation(run, f"watch-{g}-{i}", pi, validation, sampling))
            if should_stop(tried, validation):
                break
        start, best = best_policy(tried[1:], validation), best_policy([best, *tried], validation)
    return best.policy

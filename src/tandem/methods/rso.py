"""RSO: statistical rejection sampling optimisation. Liu et al. 2023, arXiv:2309.06657.

    1. a ranker rho_psi from human comparisons D_hf
    2. y ~ pi_sft, many to a prompt
    3. of these, y ~ pi_{r_psi} = pi_sft exp(r_psi / beta) / Z, by rejection    (Algorithm 1)
    4. pairs of the accepted, each labelled by rho_psi
    5. a pairwise loss on them, with gamma = `dpo.beta`

`source` leaves lines out: `sft` accepts the first `keep` answers (sft-sample-rank), `direct` trains
on D_hf as it is. By three losses these are the paper's nine settings; direct with
sigmoid is DPO, hinge is SLiC's. beta shapes the data, gamma the answer: sigmoid's limit with soft
labels and full-support pairs is pi_sft exp(r / gamma) / Z; with hard labels there is none. Ties
stay, labelled 1/2. See docs/theory/rejection_sampling.md.

Departures: AdamW; duplicates keep their multiplicity, which the published routine loses (`dedupe`
is that routine); samples are pi_sft's own unless `sampling` says so, the paper's top-40 at .7;
a step's batch counts prompts, not pairs; in a tournament r_psi says who meets again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.errors.ranges import MANY, Count, Range, check_ranges
from tandem.judges import Judge
from tandem.judges.preference_model import Pointwise, PreferenceModel
from tandem.judges.reward_model import reward_judge
from tandem.methods import dpo, preference
from tandem.methods.configs import SHARED
from tandem.methods.dpo import DPOConfig
from tandem.methods.preference import PreferenceConfig
from tandem.operators import Pairing, distinct, rank_pairs, rejection
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.stages.selection import log_tilting, select
from tandem.training.optim import Optim

PairSource = Literal["rso", "sft", "direct"]
SOURCE_NAMES: dict[PairSource, str] = {"rso": "RSO", "sft": "sft-sample-rank", "direct": "direct"}


@dataclass(frozen=True)
class RSOConfig:
    """Settings of RSO; pool, keep, beta, pairing, and dpo's gamma and rate are the paper's.

    >>> RSOConfig(pool=16, keep=4, beta=0.5).pairing
    'first-round'

    Attributes:
        source: where pairs come from: `rso`, `sft` (sft-sample-rank) or `direct`.
        pool: candidates a prompt, for `rso`, and for `sft` with `dedupe`.
        keep: answers a prompt that are paired, for `rso` and `sft` alike.
        beta: temperature of the tilt; 0 is top-k, infinity plain samples.
        unit: of beta: the ranker's `score`, or each prompt's `spread` of scores.
        dedupe: answers are told apart by text alone, as in the paper's code, for every source: of
            equal answers the first is a candidate, and `direct` drops a pair of equal ones.
        pairing: first-round (keep / 2 pairs) or tournament (keep - 1 pairs).
        soft: labels rho_psi in place of 1 and 0.
        ranker: rho_psi: a two-argument `preference` model, or the `reward` model's sigma(r - r').
        baselines: decodes y_b of pi_sft over which logit rho(x, y, y_b) is averaged.
        preference: the fit of rho_psi.
        dpo: the loss (sigmoid is the paper's sigmoid-norm; hinge, hinge_norm), gamma, optimiser.
    """

    source: PairSource = "rso"
    pool: Count = 64
    keep: Annotated[int, Range(2, MANY)] = 8
    beta: Annotated[float, Range(0, infinite=True)] = 0.5
    unit: Literal["score", "spread"] = "score"
    dedupe: bool = False
    pairing: Pairing = "first-round"
    soft: bool = False
    ranker: Literal["preference", "reward"] = "preference"
    baselines: Count = 1
    preference: PreferenceConfig = field(default_factory=PreferenceConfig, metadata=SHARED)
    dpo: DPOConfig = field(
        default_factory=lambda: DPOConfig(beta=0.05, epochs=1, batch=32, optim=Optim(lr=1e-5))
    )

    def __post_init__(self) -> None:
        check_ranges(self, "rso")
        if not 2 <= self.keep <= self.pool:
            raise ConfigError(
                f"rso.keep = {self.keep} with rso.pool = {self.pool}",
                "a pair needs two answers, and they are accepted out of the pool",
                "give 2 <= keep <= pool; near the pool's size the samples are pi_sft's",
            )

    @property
    def accept(self) -> rejection:
        """Algorithm 1; for `sft` at beta = infinity, which accepts the first."""
        beta = self.beta if self.source == "rso" else math.inf
        return rejection(beta, self.keep, dedupe=self.dedupe, unit=self.unit)

    @property
    def unread(self) -> frozenset[str]:
        """The reward, where it does not rank."""
        ranks = self.ranker == "reward" and self.source != "direct"
        return frozenset() if ranks else frozenset({"r_phi"})

    @property
    def candidates(self) -> int:
        """Answers drawn a prompt: `sft` needs more than it keeps only to find different ones."""
        return self.pool if self.source == "rso" or self.dedupe else self.keep


def open_ranker(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    D: Groups | None,
    r_phi: Checkpoint | Judge | None,
    sampling: Sampling,
    cfg: RSOConfig,
) -> tuple[Judge, Judge | None]:
    """Return r_psi, the mean of logit rho_psi(x, y, y_b), and rho_psi; or the reward alone."""
    if cfg.ranker == "reward":
        assert r_phi is not None, "read_inputs names it"
        return reward_judge(r_phi), None
    fitted = run("ranker", preference.fit, pi_sft, D, cfg.preference)
    y_b = run("baselines", sample, pi_sft, prompts, n=cfg.baselines, sampling=sampling)
    return Pointwise(fitted, y_b), PreferenceModel(fitted, "given", hard=not cfg.soft)


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    D: Groups | None,
    r_phi: Checkpoint | Judge | None,
    sampling: Sampling,
    cfg: RSOConfig = RSOConfig(),
) -> Checkpoint:
    """Human comparisons (none where a reward alone ranks) and prompts in, a policy out."""
    name = SOURCE_NAMES[cfg.source]
    if cfg.source == "direct":
        D = run("distinct", select, D, distinct()) if cfg.dedupe else D
        return run("policy", dpo.fit, pi_sft, D, cfg.dpo, name=name)
    r_psi, rho_psi = open_ranker(run, pi_sft, prompts, D, r_phi, sampling, cfg)  # 1
    pool = run("pool", sample, pi_sft, prompts, n=cfg.candidates, sampling=sampling)  # 2
    pool = run("scores", judge, pool, r_psi)
    Y = run("accepted", select, pool, cfg.accept)  # 3
    if cfg.source == "rso":
        run("tilt", log_tilting, pool, Y, cfg.accept)
    D_p = run("pairs", select, Y, rank_pairs(cfg.pairing, cfg.soft))  # 4
    D_p = run("labels", judge, D_p, rho_psi) if rho_psi else D_p
    return run("policy", dpo.fit, pi_sft, D_p, cfg.dpo, name=name)  # 5

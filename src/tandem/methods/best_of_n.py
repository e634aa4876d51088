"""Best-of-n: draw n answers and give the one that the reward likes best. Nothing is trained.

    y_1, ..., y_n ~ pi_sft independently;   answer argmax_i r_phi(x, y_i)

So the result is a way of decoding, `BestOf`, which is sampled and examined like any policy. Its
price is known: KL to pi_sft is at most log n - (n - 1)/n. What each n would bring is estimated
without bias from one pool of held-out answers (Stiennon et al. 2020, arXiv:2009.01325): with a
learned reward the judges that were not optimised rise with n and then turn over (Gao et al.
2022, arXiv:2210.10760), so n belongs to every number. See docs/theory/best_of_n.md; the exact law
is `statistics.best_of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.errors.ranges import Count, check_ranges
from tandem.evaluation.tables import Table
from tandem.judges import Judge
from tandem.judges.reward_model import reward_judge
from tandem.machine import Machine
from tandem.operators.columns import scores_of
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Events
from tandem.runs.run import Run
from tandem.stages.judging import judge
from tandem.stages.sampling import BestOf, sample
from tandem.statistics import mean_of
from tandem.statistics.best_of import best_of_n_curve, kl_bound
from tandem.training.validation import Validation


@dataclass(frozen=True)
class BestOfNConfig:
    """Settings of best-of-n; n is AlpacaFarm's.

    >>> BestOfNConfig(n=4).n
    4
    >>> best = recipe(run, pi_sft, r_phi, held_out)  # doctest: +SKIP

    Attributes:
        n: answers drawn for each answer given.
        pool: answers to each held-out prompt, from which the curve over n is estimated.
    """

    n: Count = 16
    pool: Count = 64

    def __post_init__(self) -> None:
        check_ranges(self, "best_of_n")
        if not 1 <= self.n <= self.pool:
            raise ConfigError(
                f"best_of_n.n = {self.n} with best_of_n.pool = {self.pool}",
                "the curve over n comes from one pool, and the best of n needs n answers of it",
                "give 1 <= n <= pool",
            )

    @property
    def ns(self) -> tuple[int, ...]:
        """The powers of two up to the pool, and n itself."""
        powers = {2**k for k in range(self.pool.bit_length())}
        return tuple(sorted(powers | {self.n}))


def price_of_n(
    pool: Groups,
    judges: Mapping[str, Judge],
    ns: tuple[int, ...],
    *,
    machine: Machine,
    events: Events,
) -> dict[str, Any]:
    """Lay what best-of-n brings and costs against n.

    Args:
        pool: N answers to each of some prompts.
        judges: column -> scoring judge; the first is the one that chooses.
        ns: values of n, each at most N.

    Returns:
        `text`, the table with 95 % intervals over prompts, and `numbers`, the same for JSON.
    """
    judged = {
        column: np.stack([scores_of(g, column) for g in judge(pool, who, machine=machine)])
        for column, who in judges.items()
    }
    proxy = next(iter(judged.values()))
    found = {column: best_of_n_curve(proxy, gold, ns) for column, gold in judged.items()}
    rows = [
        (n, kl_bound(n), *(mean_of(means[:, k]) for means in found.values()))
        for k, n in enumerate(ns)
    ]
    title = (
        f"best of n on {len(pool)} prompts, from one pool of {proxy.shape[1]} answers each. "
        "KL in nats: log n - (n - 1)/n, exact where no two answers tie in score, else a bound"
    )
    table = Table(("n", "KL at most", *found), tuple(rows), title)
    events.log("curve", text=f"\n{table}")
    return {"text": str(table), "numbers": table.as_dicts()}


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    r_phi: Checkpoint | Judge,
    sampling: Sampling,
    validation: Validation | None,
    cfg: BestOfNConfig = BestOfNConfig(),
) -> BestOf:
    """A policy and a reward in, a way of decoding out."""
    chooser = reward_judge(r_phi)
    if validation is not None:
        pool = run("pool", sample, pi_sft, validation.prompts, n=cfg.pool, sampling=sampling)
        run("curve", price_of_n, pool, {"proxy": chooser, **dict(validation.judges)}, cfg.ns)
    return BestOf(pi_sft, chooser, cfg.n)

"""From rewards to advantages: everything that is computed once, before the gradient step.

Nothing here carries a gradient. Whitening and group baselines read a whole rollout, never a
micro-batch. METHODS sections 3 and 16.

Shapes: T tokens, N completions.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from tandem.batching.ragged import Ragged
from tandem.errors import ConfigError, DataError

Estimator = Literal["k1", "k2", "k3"]


# --- rewards ------------------------------------------------------------------------------------


def kl_shaping(
    score: Tensor,
    old: Ragged,
    ref: Ragged,
    beta: float,
    *,
    estimator: Estimator = "k1",
    floor: float | None = None,
) -> Ragged:
    """Per-token rewards -beta (log pi_old - log pi_ref)(y_t), plus the score at the last token.

    Their sum is score - beta (log pi_old(y) - log pi_ref(y)), whose optimum is
    pi_ref exp(score/beta)/Z. Stiennon et al. 2020, arXiv:2009.01325, section 3.4.

    Args:
        score: [N] rewards of whole completions.
        old: [T] log-probabilities under the policy that sampled.
        ref: [T] the same under the reference.
        beta: KL coefficient, at least 0.
        estimator: only k1 is right inside a reward.
        floor: clamps the log-ratio from below before it is penalised; 0.0 reproduces AlpacaFarm
            and moves the optimum far away (METHODS section 3). None, the default, does not.

    Raises:
        ConfigError: beta below 0, or an estimator other than k1.
        DataError: a completion without tokens, whose score would be lost.
    """
    _check_shaping(beta, estimator)
    if bool((old.count() == 0).any()):
        raise DataError(
            f"completion {int((old.count() == 0).nonzero()[0])} of the batch has no token",
            "its score is paid at its last token, and would be lost",
            "drop empty completions before scoring; an answer has at least its EOS",
        )
    gap = (old - ref).values
    reward = -beta * (gap if floor is None else gap.clamp(min=floor))
    return old.map(lambda _: reward.index_add(0, _last(old), score.to(reward)))


def missing_eos(
    score: Tensor,
    stopped: Tensor,
    *,
    replace: float | None = None,
    penalty: float | None = None,
) -> Tensor:
    """Return [N] scores in which completions that never ended are punished.

    Args:
        score: [N] rewards.
        stopped: [N] bool, True where the completion ended itself.
        replace: the score that an unfinished completion gets instead of its own (OpenAI: -1).
        penalty: what is subtracted from it (TRL); at least 0.

    Raises:
        ConfigError: both rules at once, or a penalty below 0, which would be a prize.
    """
    if replace is not None and penalty is not None:
        raise ConfigError(
            f"`missing_eos` was given replace={replace} and penalty={penalty}",
            "they are two rules for the same answers, and one would undo the other",
            "set one of them to None",
        )
    if penalty is not None and penalty < 0:
        raise ConfigError(
            f"`missing_eos` was given penalty={penalty}",
            "it is subtracted, so below 0 it rewards answers that never end",
            "set it to 0 or more",
        )
    if replace is not None:
        return torch.where(stopped, score, torch.full_like(score, replace))
    return score if penalty is None else torch.where(stopped, score, score - penalty)


def overlong(length: Tensor, *, limit: int, buffer: int) -> Tensor:
    """DAPO's soft penalty [N]: 0 up to limit - buffer tokens, falling to -1 at limit and beyond.

    arXiv:2503.14476, eq. 13.
    """
    if not 0 < buffer <= limit:
        raise ConfigError(
            f"`overlong` was given buffer={buffer} with limit={limit}",
            "the penalty falls from 0 to -1 over the last `buffer` tokens before `limit`",
            "set buffer in 1..limit",
        )
    return ((limit - buffer - length).to(torch.get_default_dtype()) / buffer).clamp(-1, 0)


def kl_value(logp: Ragged, ref: Ragged, estimator: Estimator = "k1") -> Ragged:
    """Return [T] estimates of KL(pi || pi_ref) on samples of pi, for reading, never for training.

    With l = log pi - log pi_ref: k1 = l, unbiased, may be negative; k2 = l^2/2, biased;
    k3 = e^-l - 1 + l, unbiased a token, never negative.
    """
    l = (logp - ref).detach()  # noqa: E741
    if estimator == "k1":
        return l
    return l.map(lambda x: 0.5 * x**2 if estimator == "k2" else torch.exp(-x) - 1 + x)


# --- advantages ---------------------------------------------------------------------------------


def gae(reward: Ragged, value: Ragged, gamma: float, lam: float) -> tuple[Ragged, Ragged]:
    """Generalised advantage estimation, arXiv:1506.02438, eq. 16.

    delta_t = R_t + gamma V_{t+1} - V_t with V after the last token 0; A_t = sum_k (gamma lam)^k
    delta_{t+k}; the return is G_t = A_t + V_t.

    Args:
        reward: [T] per-token rewards.
        value: [T] value of the state before each token.
        gamma: discount in [0, 1]; 1 for language models.
        lam: in [0, 1]; 1 is Monte Carlo, 0 one-step.

    Returns:
        Advantages and returns, both [T].

    Raises:
        ConfigError: gamma or lam outside [0, 1].
    """
    _unit_interval(gamma=gamma, lam=lam)
    row, column, longest = _grid(reward)
    size = (reward.n, longest + 1)
    r = reward.values.detach().new_zeros(size).index_put((row, column), reward.values.detach())
    v = r.new_zeros(size).index_put((row, column), value.values.detach())
    delta = r[:, :-1] + gamma * v[:, 1:] - v[:, :-1]
    adv = torch.zeros_like(delta)
    carry = delta.new_zeros(reward.n)
    for t in reversed(range(longest)):
        carry = delta[:, t] + gamma * lam * carry
        adv[:, t] = carry
    a = reward.map(lambda _: adv[row, column])
    return a, a + value.detach()


def group_mean(score: Tensor, group: Tensor) -> Tensor:
    """Return [N] the mean score of each completion's group: GRPO's baseline.

    Args:
        score: [N] rewards.
        group: [N] the group of each completion, in any order.
    """
    which, count = _groups(group)
    total = score.new_zeros(len(count)).index_add(0, which, score)
    return (total / count.to(score))[which]


def leave_one_out(score: Tensor, group: Tensor) -> Tensor:
    """Return [N] the mean score of the *other* completions of each one's group: RLOO's baseline.

    r_i - leave_one_out_i = K/(K - 1) (r_i - mean). arXiv:2402.14740.

    Raises:
        DataError: a group has one completion.
    """
    which, count = _groups(group)
    _at_least_two("leave_one_out", group, which, count, "the others of a single completion")
    total = score.new_zeros(len(count)).index_add(0, which, score)
    return ((total[which] - score) / (count[which] - 1).to(score)).to(score)


def group_std(score: Tensor, group: Tensor) -> Tensor:
    """Return [N] the standard deviation (over n - 1) of each completion's group.

    GRPO divides by it plus 1e-4. It weights prompts of middling difficulty down and easy and
    hopeless ones up; Dr. GRPO leaves it out.

    Raises:
        DataError: a group has one completion.
    """
    which, count = _groups(group)
    _at_least_two("group_std", group, which, count, "the spread of a single completion")
    square = (score - group_mean(score, group)) ** 2
    total = score.new_zeros(len(count)).index_add(0, which, square)
    return torch.sqrt(total / (count - 1).to(score))[which]


def informative(score: Tensor, group: Tensor) -> Tensor:
    """Return [N] bool, False for completions of a group whose scores are all equal.

    Such a group has no gradient; DAPO's dynamic sampling draws others in its place
    (arXiv:2503.14476, section 3.2).
    """
    which, count = _groups(group)
    low = score.new_full((len(count),), math.inf).scatter_reduce(0, which, score, "amin")
    high = score.new_full((len(count),), -math.inf).scatter_reduce(0, which, score, "amax")
    return (high > low)[which]


def whiten(x: Ragged, *, shift: bool = True, floor: float = 1e-4) -> Ragged:
    """Divide by the standard deviation over all tokens; shift the mean to 0, or keep it.

    Advantages are shifted and scaled, rewards only scaled: shift=False keeps their mean,
    (x - mean)/std + mean. Call it on the whole rollout, across ranks.

    Args:
        x: [T], two tokens or more.
        shift: move the mean to 0.
        floor: the least standard deviation that is divided by. At the optimum the spread goes to
            0, and dividing by it makes a converged policy dither (METHODS section 3).

    Raises:
        DataError: fewer than two tokens.
    """
    if len(x.values) < 2:
        raise DataError(
            f"`whiten` was given {len(x.values)} token(s)",
            "a spread needs two numbers",
            "whiten the whole rollout, not one of its micro-batches",
        )
    mean = x.values.mean()
    scaled = (x.values - mean) / x.values.std().clamp(min=floor)
    return x.map(lambda _: scaled if shift else scaled + mean)


def explained_variance(value: Ragged, ret: Ragged) -> Tensor:
    """Return 1 - Var(G - V)/Var(G): 1 a perfect critic, 0 a constant, below 0 a harmful one."""
    spread = ret.values.var(correction=0)
    return 1 - (ret.values - value.values).var(correction=0) / spread.clamp(min=1e-12)


# --- the KL coefficient -------------------------------------------------------------------------


@dataclass
class AdaptiveBeta:
    """Ziegler's controller: beta moves so that KL(pi || pi_ref) stays near a target.

    e = clip(KL/target - 1, -0.2, 0.2); beta <- beta (1 + e n/horizon). arXiv:1909.08593,
    section 2.2. AlpacaFarm's k_beta is n/horizon.

    Attributes:
        beta: the coefficient now.
        target: nats a sequence.
        horizon: episodes over which beta can change by a fifth of itself.
    """

    beta: float
    target: float = 6.0
    horizon: float = 10_000.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(
                    f"`AdaptiveBeta` was given {name}={value}",
                    "beta changes by factors, towards a target, over a horizon: all are above 0",
                    f"set {name} above 0, or use a fixed beta",
                )

    def update(self, kl: float, n: int) -> float:
        """Return the new beta after n episodes whose mean KL a sequence was `kl`."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.beta *= 1 + error * n / self.horizon
        return self.beta

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run needs."""
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take up where a run stopped."""
        self.beta = state["beta"]


# --- places and refusals ------------------------------------------------------------------------


def _grid(x: Ragged) -> tuple[Tensor, Tensor, int]:
    """Return the row and column of each token on a padded grid, and the grid's width."""
    count = torch.bincount(x.owner, minlength=x.n)
    start = count.cumsum(0) - count
    column = torch.arange(len(x.owner), device=x.owner.device) - start[x.owner]
    return x.owner, column, int(count.max()) if len(count) else 0


def _last(x: Ragged) -> Tensor:
    """Return [N] the index of each completion's last token."""
    return torch.bincount(x.owner, minlength=x.n).cumsum(0) - 1


def _groups(group: Tensor) -> tuple[Tensor, Tensor]:
    """Return [N] the rank of each completion's group number, and the [G] groups' sizes."""
    found = torch.unique(group, return_inverse=True, return_counts=True)  # pyright: ignore
    _, which, count = cast("tuple[Tensor, Tensor, Tensor]", found)
    return which, count


def _at_least_two(name: str, group: Tensor, which: Tensor, count: Tensor, what: str) -> None:
    alone = count[which] < 2
    if bool(alone.any()):
        raise DataError(
            f"`{name}` met group {int(group[alone][0])} with one completion",
            f"{what} is undefined",
            "sample two or more completions a prompt",
        )


def _unit_interval(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise ConfigError(
                f"`gae` was given {name}={value}",
                "outside [0, 1] the sum over later tokens grows or alternates",
                f"set {name} in [0, 1]; 1 is usual for language models",
            )


def _check_shaping(beta: float, estimator: str) -> None:
    if beta < 0:
        raise ConfigError(
            f"`kl_shaping` was given beta={beta}",
            "below 0 it pays the policy for leaving the reference",
            "set beta to 0 or more",
        )
    wrong = {
        "k2": "its optimum collapses onto the best answer instead of pi_ref exp(r/beta)",
        "k3": "its optimum diverges once pi < pi_ref somewhere: e^-l pays for unlikely tokens",
    }
    if estimator != "k1":
        raise ConfigError(
            f"`kl_shaping` was asked for {estimator} inside the reward",
            wrong.get(estimator, "it is no estimator of the KL"),
            "use k1 here; k2 is right as a loss (`objectives.kl`), k3 for reading (`kl_value`)",
        )

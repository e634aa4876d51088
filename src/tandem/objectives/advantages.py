"""From rewards to advantages: everything that is computed once, before the gradient step.

Nothing here carries a gradient. Whitening and group baselines read a whole rollout, never a
micro-batch. See docs/theory/ppo.md and docs/theory/relatives.md.

Shapes: T tokens, N completions.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from tandem.batching.ragged import Ragged
from tandem.errors import ConfigError, DataError

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


def has_score_spread(score: Tensor, group: Tensor) -> Tensor:
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
            0, and dividing by it makes a converged policy dither (docs/theory/ppo.md#pitfalls).

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


# --- places and refusals ------------------------------------------------------------------------


def _grid(x: Ragged) -> tuple[Tensor, Tensor, int]:
    """Return the row and column of each token on a padded grid, and the grid's width."""
    count = torch.bincount(x.owner, minlength=x.n)
    start = count.cumsum(0) - count
    column = torch.arange(len(x.owner), device=x.owner.device) - start[x.owner]
    return x.owner, column, int(count.max()) if len(count) else 0


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

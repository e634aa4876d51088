"""How much each token counts: the three ways in which papers average a ragged loss.

The loop divides the step's summed loss by its summed weight, so each way is a pair of factors.
For completion n of length |y_n| and own weight w_n:

| per        | a token's loss times | its weight  | the step's loss                        |
|------------|----------------------|-------------|----------------------------------------|
| `token`    | w_n                  | w_n         | mean over tokens (SFT, DAPO)           |
| `sequence` | w_n / |y_n|          | w_n / |y_n| | mean of per-completion means (GRPO)    |
| `constant` | w_n / length         | w_n / |y_n| | sum over tokens / length, mean over n  |

`constant` with length 1 is the policy gradient of a sequence (REINFORCE, RLOO); with the longest
allowed answer as its length it is Dr. GRPO (arXiv:2503.20783).

Shapes: T tokens, N completions.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from tandem.batching.ragged import Ragged
from tandem.errors import ConfigError, nearest_name
from tandem.objectives.setting_ranges import check_positive

Per = Literal["token", "sequence", "constant"]


def unit_shares(
    tokens: Ragged, per: Per, *, length: float = 1.0, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return [T] factors for the tokens' losses and [T] weights to divide by.

    Args:
        tokens: any Ragged of the loss's shape; only its owners are read.
        per: see the module's table.
        length: the divisor of `constant`.
        weight: [N] the completions' own weights; None is 1 for each.

    Raises:
        ConfigError: unknown `per`, or a length that is not above 0.
    """
    own = torch.ones_like(tokens.values) if weight is None else weight.to(tokens.values)
    own = own if weight is None else own[tokens.owner]
    if per == "token":
        return own, own
    check_positive(f'per="{per}"', length=length)
    mean = own / tokens.count()[tokens.owner]
    if per == "sequence":
        return mean, mean
    if per == "constant":
        return own / length, mean
    raise ConfigError(
        f"a loss was asked to average per={per!r}",
        "tokens can be averaged in three ways, and they give different gradients",
        f"choose one of {', '.join(get_args(Per))}.{nearest_name(str(per), get_args(Per))}",
    )

"""Losses as pure functions: tensors in, unreduced `Terms` out.

No function here knows a config, a mask, a model or a token id, and none averages: a `Terms.loss`
already carries its weight, and the loop divides the step's summed loss by its summed weight.
"""

from tandem.objectives.imitation import Imitation, gold, soft_mean, weighted
from tandem.objectives.multiview import (
    contrastive,
    multiview,
    other_prompt,
    skl_closed,
    skl_sample,
    skl_schedule,
)
from tandem.objectives.nll import nll
from tandem.objectives.pairwise import (
    PAIRWISE,
    PairwiseLoss,
    hinge,
    ipo,
    robust,
    sigmoid,
    simpo,
    sppo,
)
from tandem.objectives.policy_gradient import kl, ppo_clip, reinforce, value_clip
from tandem.objectives.reward import antisymmetric, bradley_terry, rank_weight, two_argument
from tandem.objectives.shares import Per, unit_shares
from tandem.objectives.unpaired import kto, kto_z0, sppo_regression

__all__ = [
    "nll",
    "Imitation",
    "weighted",
    "gold",
    "soft_mean",
    "PAIRWISE",
    "PairwiseLoss",
    "sigmoid",
    "robust",
    "ipo",
    "hinge",
    "sppo",
    "simpo",
    "kto",
    "kto_z0",
    "sppo_regression",
    "bradley_terry",
    "two_argument",
    "antisymmetric",
    "rank_weight",
    "ppo_clip",
    "reinforce",
    "value_clip",
    "kl",
    "multiview",
    "contrastive",
    "other_prompt",
    "skl_closed",
    "skl_sample",
    "skl_schedule",
    "Per",
    "unit_shares",
]

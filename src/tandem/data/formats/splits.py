"""Splits by prompt: all rows of a prompt fall on the same side, whatever their order or ids."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping

import numpy as np

from tandem.data.chat.transcripts import prompt_key
from tandem.data.groups import Groups
from tandem.errors import ConfigError
from tandem.rng import Seed


def split_groups(
    groups: Groups, fractions: Mapping[str, float], seed: Seed | int = 0
) -> dict[str, Groups]:
    """Divide groups by a hash of the prompt, so that no prompt is in two splits.

    Args:
        groups: any collection.
        fractions: name -> expected share; they add up to 1. Sizes are random around it, because
            each prompt is assigned on its own: adding rows moves no earlier one.
        seed: another seed, another division.

    Raises:
        ConfigError: fractions are negative or do not add up to 1.
    """
    total = sum(fractions.values())
    if not fractions or min(fractions.values()) < 0 or abs(total - 1) > 1e-9:
        raise ConfigError(
            f"fractions = {dict(fractions)}",
            f"shares lie between 0 and 1 and add up to 1; these add up to {total:g}",
            'give for example {"train": 0.9, "heldout": 0.1}',
        )
    root = (Seed(seed) if isinstance(seed, int) else seed).at("split")
    bounds = list(itertools.accumulate(fractions.values()))[:-1]
    shares = (root.at(prompt_key(group.prompt)).uniform() for group in groups)
    part = np.fromiter((bisect.bisect_right(bounds, x) for x in shares), np.int64, len(groups))
    return {name: groups.keep_where(part == k) for k, name in enumerate(fractions)}

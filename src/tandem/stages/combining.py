"""Collections of the same prompts, put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import ConfigError, DataError
from tandem.rng import Seed


def merge(first: Groups, second: Groups) -> Iterator[Group]:
    """Put two collections of the same prompts together: completions side by side.

    Raises:
        DataError: the prompts differ.
    """
    for a, b in zip(first, second, strict=True):
        if a.id != b.id:
            raise DataError(
                f"prompt `{a.id}` stands beside `{b.id}`",
                "a comparison is between answers to the same prompt",
                "sample both from the same prompts",
            )
        yield Group(a.prompt, a.completions + b.completions)


def mix(
    policies: Sequence[Groups], shares: Sequence[float], *, n: int, seed: Seed
) -> Iterator[Group]:
    """Draw n completions a prompt, each anew from one of several policies' samples, by its share.

    Raises:
        ConfigError: not one share for each policy.
        DataError: the collections do not hold the same prompts, or too few completions.
    """
    if len(policies) != len(shares) or not policies:
        raise ConfigError(
            f"{len(policies)} policies and {len(shares)} shares",
            "each policy needs its share",
            "give as many shares as policies, for example (.5, .25, .25)",
        )
    edges = np.cumsum(shares[:-1]) / sum(shares)
    for groups in zip(*policies, strict=True):
        if len({g.id for g in groups}) > 1 or min(map(len, groups)) < n:
            raise DataError(
                f"the groups {[g.id for g in groups]} hold {[len(g) for g in groups]} completions",
                f"{n} completions for one prompt are taken from any of the policies",
                f"sample all policies on the same prompts with n={n}",
            )
        draws = seed.at("mix", groups[0].id).rng().random(n)
        writers = np.searchsorted(edges, draws, "right").tolist()
        chosen = [groups[writer].completions[k] for k, writer in enumerate(writers)]
        yield Group(groups[0].prompt, tuple(chosen))

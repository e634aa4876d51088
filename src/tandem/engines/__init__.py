"""Engines draw completions from a policy. One protocol, several homes for the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from tandem.data.record import Group
from tandem.errors.ranges import Count, CountOrZero, NotNegative, Range, Share, check_ranges
from tandem.rng import Seed


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn from a model: temperature, truncation, length.

    The defaults draw from the model's own distribution. Anything else is another policy, so a
    run does a stage again when it changes.

    >>> Sampling()  # the policy itself
    Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, max_tokens=256, stop=())
    >>> greedy = Sampling(temperature=0)
    >>> rso = Sampling(temperature=0.7, top_k=40, max_tokens=128)  # as in RSO's paper

    Attributes:
        temperature: logits are divided by it; 0 is greedy.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with at least this mass.
        min_p: keep tokens with at least this share of the likeliest token's probability.
        max_tokens: longest completion, end-of-sequence token included.
        stop: a completion ends when its text ends with one of these strings.
    """

    temperature: NotNegative = 1.0
    top_k: CountOrZero = 0
    top_p: Annotated[float, Range(0, 1, above=True)] = 1.0
    min_p: Share = 0.0
    max_tokens: Count = 256
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self, "sampling")


class Engine(Protocol):
    """Draws completions; draws depend only on (seed, prompt id, i).

    Attributes:
        is_exact: True if it reads the weights that are trained with our own arithmetic. Samples
            of any other engine come from a law that differs in its last places, so that what is
            learned from them is weighed by the ratio of the two.
    """

    is_exact: bool

    def load(self, weights: Any) -> None:
        """Take these weights (a checkpoint or a live module) as the policy to sample from."""
        ...

    def sample(
        self, prompts: Iterable[Group], n: int, sampling: Sampling, seed: Seed
    ) -> Iterator[Group]:
        """Yield each prompt's group with n new completions, in the order of the prompts.

        An engine that is not exact holds its own weights: they are those of the call, whatever is
        trained while the groups are read.
        """
        ...

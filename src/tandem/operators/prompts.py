"""Operators that read what a prompt is, and leave its completions alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tandem.data.record import Group
from tandem.errors import DataError
from tandem.rng import Seed


@dataclass(frozen=True)
class asks:
    """Keep the prompts of one kind: those whose `meta` says so, for example `harmful: true`.

    Attributes:
        key: the name in `meta`, which every prompt must have.
        value: what it must be.
    """

    key: str
    value: Any = True

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield the groups with such a prompt.

        Raises:
            DataError: a prompt does not say what it is.
        """
        for group in groups:
            if self.key not in group.prompt.meta:
                raise DataError(
                    f"prompt `{group.id}` does not say whether it is `{self.key}`",
                    f"prompts are told apart by `{self.key}` in their meta",
                    "give --task micro-dialogue, or data with a column "
                    f"`{self.key}` for every prompt",
                )
            if group.prompt.meta[self.key] == self.value:
                yield group

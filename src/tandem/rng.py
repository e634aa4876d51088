"""Seeds that depend on names, never on order: the same prompt gets the same draw everywhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

Key = str | int


@dataclass(frozen=True, slots=True)
class Seed:
    """A random seed from which other seeds are derived by name.

    `seed.at("policy", prompt.id, 3)` is the same number whatever was drawn before it, on
    whichever rank, in whichever batch, before or after a resume.

    >>> seed = Seed(0)
    >>> seed.at("draws", "q1") == seed.at("draws").at("q1")
    True
    >>> seed.at("draws", "q1") == seed.at("draws", "q2")
    False
    >>> int(seed.rng().integers(0, 10))
    8

    Attributes:
        value: the number itself.
    """

    value: int = 0

    def at(self, *keys: Key) -> Seed:
        """Fold names into the seed; `at(a).at(b)` and `at(a, b)` are the same seed."""
        value = self.value
        for key in keys:
            kind = "i" if isinstance(key, int) else "s"
            digest = hashlib.blake2b(f"{value}/{kind}{key}".encode(), digest_size=8).digest()
            value = int.from_bytes(digest, "little") >> 1
        return Seed(value)

    def rng(self) -> np.random.Generator:
        """Return a new numpy generator seeded with this value."""
        return np.random.default_rng(self.value)

    def uniform(self) -> float:
        """Return one number in [0, 1)."""
        return (self.at("uniform").value >> 10) / (1 << 53)

    def __int__(self) -> int:
        return self.value

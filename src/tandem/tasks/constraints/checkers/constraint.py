"""What every constraint is: a value with its parameters, a rule, and words to ask for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True)
class Constraint(ABC):
    """Something that an answer must be, checked by a program.

    Attributes:
        kind: its name in prompts, tables and splits.
        group: what it is about: length, words, layout, marks, letters or edges.
        wordings: ways to ask for it, in terms of its parameters.
    """

    kind: ClassVar[str]
    group: ClassVar[str]
    wordings: ClassVar[tuple[str, ...]]

    @abstractmethod
    def is_kept(self, text: str) -> bool:
        """Say whether an answer keeps it; exact, and the same every time."""

    def request(self, which: int = 0) -> str:
        """Ask for it in one of its wordings."""
        return self.wordings[which % len(self.wordings)].format(**self._named())

    def facts(self) -> dict[str, Any]:
        """The constraint as JSON can hold it; `read_constraint` undoes it."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}
        return {"kind": self.kind, **plain}

    def _named(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        told = {k: quote_words(v) if isinstance(v, tuple) else v for k, v in own.items()}
        if "words" in own:
            told["words"] = f"the word{'s' * (len(own['words']) > 1)} {told['words']}"
        return told | {"times": spell_times(own.get("n", 0))}


def quote_words(names: tuple[str, ...]) -> str:
    """Quote several words in a sentence.

    >>> quote_words(("sun", "rain", "snow"))
    '"sun", "rain" and "snow"'
    """
    quoted = [f'"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def spell_times(n: int) -> str:
    """Say how often: once, twice, 3 times."""
    return {1: "once", 2: "twice"}.get(n, f"{n} times")

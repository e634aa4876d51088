"""The one tree of errors. Every message has three parts: what, why, do this.

    TandemError
    ├── ConfigError      a setting is unknown, out of range, or clashes with another
    ├── DataError        a file, a row or a group is not what a method needs
    ├── ModelError       a model folder, tokenizer, template or checkpoint cannot be used
    ├── JudgeError       a judge cannot give what was asked of it
    ├── EngineError      a sampler cannot do what was asked of it
    └── RunError         a run folder belongs to other arguments, or cannot be written

    Pending              not an error: a judge (a human) answers later; the run stops cleanly

The command line prints the three parts, without a traceback, and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TandemError(Exception):
    """A mistake that the user can mend.

    Args:
        what: what happened, with the offending value and its place (file, row, group, key).
        why: the rule that was broken and the harm that ignoring it would do.
        do: the next thing to type or to change.
    """

    def __init__(self, what: str, why: str, do: str) -> None:
        super().__init__(what, why, do)
        self.what, self.why, self.do = what, why, do

    def __str__(self) -> str:
        return f"{self.what}\n  why: {self.why}\n  do:  {self.do}"


class ConfigError(TandemError):
    """A setting is unknown, out of range, or clashes with another."""


class DataError(TandemError):
    """A file, a row or a group is not what a method needs."""


class ModelError(TandemError):
    """A model folder, tokenizer, template or checkpoint cannot be used."""


class JudgeError(TandemError):
    """A judge cannot give what was asked of it."""


class EngineError(TandemError):
    """A sampler cannot do what was asked of it."""


class RunError(TandemError):
    """A run folder belongs to other arguments, or cannot be written."""


class Pending(Exception):
    """A judge will answer later; the run stops cleanly and resumes with the same command.

    Args:
        address: where the answer is awaited, for example the address of the labelling page.
        have: judgements present.
        need: judgements needed.
    """

    def __init__(self, address: str, have: int, need: int) -> None:
        super().__init__(f"{have} of {need} judgements; answer at {address}, then run this again")
        self.address, self.have, self.need = address, have, need

    def __reduce__(self) -> tuple[type[Pending], tuple[str, int, int]]:
        """Travel between processes whole."""
        return Pending, (self.address, self.have, self.need)


def nearest_name(word: str, known: Iterable[str]) -> str:
    """Return ' Did you mean `x`?' for the closest known word, or ''."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean `{close[0]}`?" if close else ""

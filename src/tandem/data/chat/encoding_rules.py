"""What a run decides once about turning texts into tokens: length, truncation, date."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.data.chat.clock import parse_date
from tandem.data.chat.truncate import TRUNCATIONS, Truncation
from tandem.errors import ConfigError


@dataclass(frozen=True)
class EncodingRules:
    """How texts become tokens in a run.

    Attributes:
        max_length: longest prompt + completion in tokens; the model's context if not given
        truncation: what happens to longer ones: drop, keep-start or keep-end
        date: what a chat template that asks for the date writes, as 2026-03-01; kept in run.toml
    """

    max_length: int | None = None
    truncation: Truncation = "drop"
    date: str = ""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 2:
            raise ConfigError(
                f"data.max_length = {self.max_length}",
                "a prompt and a completion need at least one token each",
                "give the model's context length, or less: --data.max_length 1024",
            )
        if self.truncation not in TRUNCATIONS:
            raise ConfigError(
                f"data.truncation = {self.truncation!r}",
                f"what does not fit is treated in one of the ways {', '.join(TRUNCATIONS)}",
                f"give one of them: --data.truncation {TRUNCATIONS[0]}",
            )
        if self.date:
            parse_date(self.date)

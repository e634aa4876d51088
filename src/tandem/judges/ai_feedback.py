"""The settings of AI feedback: which language model, and how its labels are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tandem.engines import Sampling
from tandem.engines.language_models import LanguageModel
from tandem.engines.language_models.addresses import check_address, check_key, usual_key
from tandem.engines.language_models.local import LocalModel
from tandem.engines.language_models.openai import Server
from tandem.errors import ConfigError
from tandem.errors.ranges import Count, Range, check_ranges
from tandem.judges.llm import Average, Labeller, Orders
from tandem.judges.reasoning import ReasoningJudge
from tandem.judges.templates import CompareFormat
from tandem.machine import WHEN_CHANGED
from tandem.runs.checkpoint import Checkpoint


@dataclass(frozen=True)
class AIFeedback:
    """Which language model is asked, and how its labels are read.

    Attributes:
        model: a model's folder, or with a server its name there; None asks the base itself.
        server: address of an OpenAI-compatible server; None for a folder of this machine.
        key: environment variable with the server's key; OPENAI_API_KEY for api.openai.com, none
            for others.
        orders: both, or one, whose label has the position bias in it.
        average: of the orders' and principles' readings: probability (the paper) or logit.
        hard: round soft labels to clicks.
        clamp: keep labels within [clamp, 1 - clamp]; .4 with chains of thought (CAI).
        reads: `letters`, their probabilities; or `verdict`, for models that reason first: they
            write, and the verdict is read by a rule.
        room: tokens of reasons and verdict, at most.
    """

    model: str | None = None
    server: str | None = None
    key: str | None = field(default=None, compare=False, metadata={WHEN_CHANGED: True})
    orders: Orders = "both"
    average: Average = "probability"
    hard: bool = False
    clamp: Annotated[float, Range(0, 0.5)] | None = None
    reads: Literal["letters", "verdict"] = field(default="letters", metadata={WHEN_CHANGED: True})
    room: Count = field(default=2048, metadata={WHEN_CHANGED: True})

    def __post_init__(self) -> None:
        check_ranges(self, "asking")
        if self.server is not None:
            check_address(self.server, "asking.server")
            check_key(self.key, self.server)
        if self.server is not None and self.model is None:
            raise ConfigError(
                f"asking.server = {self.server} without a model",
                "a server may have several models",
                "give asking.model, its name on the server",
            )

    def lm(self, base: Checkpoint) -> LanguageModel:
        """Return the handle on the language model."""
        if self.server is not None:
            return Server(str(self.model), self.server, self.key or usual_key(self.server))
        return LocalModel(base if self.model is None else Checkpoint(Path(self.model)))

    def labeller(
        self, base: Checkpoint, compare: CompareFormat, principles: tuple[str, ...]
    ) -> Labeller | ReasoningJudge:
        """Return the judge that compares by these principles."""
        if self.reads == "verdict":
            return ReasoningJudge(
                self.lm(base),
                principles=principles,
                orders=self.orders,
                hard=self.hard,
                sampling=Sampling(temperature=0.0, max_tokens=self.room),
            )
        how = {"average": self.average, "hard": self.hard, "clamp": self.clamp}
        return Labeller(self.lm(base), compare, principles, self.orders, **how)  # type: ignore[arg-type]

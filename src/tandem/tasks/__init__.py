"""The tasks: where prompts, demonstrations and judgements come from.

Everything in a `World` is a value or a handle; no model is opened and nothing is fitted before a
stage asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from tandem.data.groups import Groups, Prompts
from tandem.data.verifiable import QuestionFormat
from tandem.errors import ConfigError
from tandem.judges import Judge
from tandem.judges.agreement import Equivalence
from tandem.judges.templates import FeedbackFormats
from tandem.runs.checkpoint import Checkpoint

TASKS: dict[str, str] = {
    "micro": "summaries in a small language: truth is known, a laptop is enough",
    "micro-shared": "summaries whose demonstrations share their inventions: agreement misleads",
    "micro-dialogue": "helpful and harmful requests in the same language",
    "micro-arithmetic": "word problems with a chain of thought and one checkable answer",
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of a task is used. Files are used whole, but for what is held out.

    Attributes:
        demonstrations: prompts with one answer each, for SFT.
        pairs: comparisons asked of the annotator, for training.
        held_out: comparisons of other prompts, to evaluate rewards on.
        prompts: unlabelled prompts to sample from.
        evaluation: prompts on which policies are compared.
        flips: share of the annotator's answers that are wrong.
        weaker: share of the compared answers that other policies than pi_sft wrote: half of
            them the base, half an SFT policy of a tenth of the demonstrations.
        held_out_share: files: share of the prompts kept out of training.
    """

    demonstrations: int = 3000
    pairs: int = 1000
    held_out: int = 500
    prompts: int = 4000
    evaluation: int = 1000
    flips: float = 0.25
    weaker: float = 0.0
    held_out_share: float = 0.1

    def __post_init__(self) -> None:
        counts = (self.demonstrations, self.pairs, self.held_out, self.prompts, self.evaluation)
        shares = 0 <= self.flips < 0.5 and 0 <= self.weaker <= 1 and 0 < self.held_out_share < 1
        if min(counts) < 1 or not shares:
            raise ConfigError(
                f"sizes: {self}",
                "counts are at least 1, 0 <= flips < 0.5, 0 <= weaker <= 1, 0 < held_out_share < 1",
                "change the value that is out of range",
            )

    def amounts(self, task: bool) -> dict[str, float]:
        """Return what is used of a task by name; of files, all is used but what is held out."""
        if not task:
            return {"held_out_share": self.held_out_share}
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in every.items() if k != "held_out_share" and (v or k != "weaker")}


@dataclass(frozen=True, slots=True)
class Task:
    """What every method may start from.

    Attributes:
        name: the task's or the data file's name.
        base: the model before any training.
        demonstrations: prompts with one good completion each.
        preferences: judged groups for training, or None when the annotator is asked.
        held_out: judged groups of other prompts, or None when the annotator is asked.
        asked: prompts on which the annotator compares samples, or None.
        asked_held_out: the same for the held-out comparisons.
        prompts: unlabelled prompts to sample from while training.
        evaluation: prompts on which policies are compared; they are in no other split.
        weaker: share of the answers that the annotator compares which pi_sft did not write.
        references: one reference answer for each evaluation prompt, or None.
        annotator: who gives preferences, or None when they come with the data.
        truth: the programmatic judge, or None.
        wording: how questions with one checkable answer are put and read, or None.
        formats: how a language model is asked to compare, rate, criticise and revise here.
        same: what makes two completions the same, by name, the task's own choice first.
        notes: what was read, kept and dropped on the way, as lines.
    """

    name: str
    base: Checkpoint
    demonstrations: Groups
    preferences: Groups | None
    held_out: Groups | None
    asked: Prompts | None
    asked_held_out: Prompts | None
    prompts: Prompts
    evaluation: Prompts
    weaker: float = 0.0
    references: Groups | None = None
    annotator: Judge | None = None
    truth: Judge | None = None
    wording: QuestionFormat | None = None
    formats: FeedbackFormats = field(default_factory=FeedbackFormats)
    same: Mapping[str, Equivalence] = field(default_factory=dict[str, Equivalence])
    notes: tuple[str, ...] = ()

    @property
    def marked(self) -> bool:
        """True where single answers are marked good or bad, and none are compared."""
        judged = self.held_out
        return judged is not None and all(
            g.scores is not None and not g.preferences and set(g.scores.tolist()) <= {0.0, 1.0}
            for g in judged
        )

    @property
    def compared(self) -> bool:
        """True where comparisons exist, or somebody can be asked for them."""
        judged = self.preferences
        return self.annotator is not None or (
            judged is not None and any(g.preferences for g in judged)
        )

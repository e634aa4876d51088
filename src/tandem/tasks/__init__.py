"""The tasks: where prompts, demonstrations and judgements come from.

Everything in a `Task` is a value or a handle; no model is opened and nothing is fitted before a
stage asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated

from tandem.data.groups import Groups, Prompts
from tandem.data.verifiable import QuestionFormat
from tandem.errors.ranges import LabelNoise, Range, Share, check_ranges
from tandem.judges import Judge
from tandem.judges.agreement import Equivalence
from tandem.judges.templates import FeedbackFormats
from tandem.runs.checkpoint import Checkpoint

Size = Annotated[int, Range(1, 1_000_000)]
"""As much of a task as a machine can write down in an hour."""

TASKS: dict[str, str] = {
    "micro": "summaries in a small language: truth is known, a laptop is enough",
    "micro-shared": "summaries whose demonstrations share their inventions: agreement misleads",
    "micro-tastes": "summaries that three camps judge: a preference that goes in a circle",
    "micro-rotation": "summaries for people whose taste turns from round to round, to short ones",
    "micro-flip": "summaries for people who like them short, and from round 3 on long",
    "micro-dialogue": "helpful and harmful requests in the same language",
    "micro-arithmetic": "word problems with a chain of thought and one checkable answer",
    "micro-translation": "translation into a second surface of that language: ReST's own task",
    "constraints": "instructions with constraints that a program checks, for a chat model of yours",
}
LEAST_GOLD = 200
"""Comparisons below which none are kept for a gold reward: it would be little but noise."""
OF_FILES = ("held_out_share", "gold_share")
"""Sizes that are read for files alone."""
WITHOUT_MODEL = ("constraints",)
"""Tasks that are asked of a model of yours, because they come without one."""


UNUSED = {"weaker": 0.0, "cyclic": 1.0}
"""Amounts that are told only where they differ from this."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of a task is used: numbers of demonstrations, comparisons and prompts.

    Files are used whole, but for what is held out.

    >>> Sizes(pairs=200, evaluation=50).pairs
    200

    Attributes:
        demonstrations: prompts with one answer each, for SFT.
        pairs: comparisons asked of the annotator, for training.
        held_out: comparisons of other prompts, to evaluate rewards on.
        prompts: unlabelled prompts to sample from.
        evaluation: prompts on which policies are compared.
        flips: share of the annotator's answers that are wrong.
        cyclic: micro-tastes: share of the annotators who stand in the three camps; the others
            follow the truth, so that 0 is a ranking and 1 a circle.
        weaker: share of the compared answers that other policies than pi_sft wrote: half of
            them the base, half an SFT policy of a tenth of the demonstrations.
        held_out_share: files: share of the prompts kept out of training.
        gold_share: files: share of the prompts whose comparisons only `gold_rm` is fitted to, and
            nothing else is; 0 leaves it out. Nothing is held back where it would be too little.
    """

    demonstrations: Size = 3000
    pairs: Size = 1000
    held_out: Size = 500
    prompts: Size = 4000
    evaluation: Size = 1000
    flips: LabelNoise = 0.25
    cyclic: Share = 1.0
    weaker: Share = 0.0
    held_out_share: Annotated[float, Range(0, 1, above=True, below=True)] = 0.1
    gold_share: Annotated[float, Range(0, 1, below=True)] = 0.2

    def __post_init__(self) -> None:
        check_ranges(self, "sizes")

    def amounts(self, task: bool) -> dict[str, float]:
        """Return what is used of a task by name; of files, all is used but what is held out."""
        if not task:
            return {name: getattr(self, name) for name in OF_FILES}
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        hidden = {*OF_FILES} | {k for k, v in UNUSED.items() if every[k] == v}
        return {k: v for k, v in every.items() if k not in hidden}


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that a method may start from: a base model, data, prompts and judges.

    `load_task` opens one by name, `task_from_files` makes one of your model and your data.

    >>> from tandem import load_task
    >>> task = load_task("micro", Sizes(pairs=20, demonstrations=10), seed=0)
    >>> len(task.demonstrations), task.base.name
    (10, 'base')

    Attributes:
        name: the task's or the data file's name.
        base: the model before any training.
        demonstrations: prompts with one good completion each; the prompts alone where a rater
            picks among the base's own answers.
        preferences: judged groups for training, or None when the annotator is asked.
        held_out: judged groups of other prompts, or None when the annotator is asked.
        asked: prompts on which the annotator compares samples, or None.
        asked_held_out: the same for the held-out comparisons.
        gold: a reward that was fitted to other people's comparisons, never optimised, or None.
        gold_labels: judged groups of yet other prompts, to which a gold reward is fitted and
            nothing else is, or None.
        asked_gold: the same where the annotator is asked.
        has_test_set: True where `held_out` is a test set that the user gave.
        prompts: unlabelled prompts to sample from while training.
        evaluation: prompts on which policies are compared; they are in no other split.
        weaker: share of the answers that the annotator compares which pi_sft did not write.
        references: one reference answer for each evaluation prompt, or None.
        annotator: who gives preferences, or None when they come with the data.
        rater: who picks each demonstration among the base's own answers, or None when
            demonstrations are given.
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
    gold: Judge | None = None
    gold_labels: Groups | None = None
    asked_gold: Prompts | None = None
    has_test_set: bool = False
    weaker: float = 0.0
    references: Groups | None = None
    annotator: Judge | None = None
    rater: Judge | None = None
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

"""The micro task: a small language in which the truth is known and everything runs on a laptop.

    task = Micro("summaries")
    pi_base = task.model()                                 # a Hugging Face folder
    demos = task.demonstrations(3000, Seed(0))             # SFT data: better than the base
    prompts = task.prompts("preference", 1000, Seed(0))
    humans = task.annotator(flips=0.25)                    # Groups in, Groups with preferences out

No part of this package but `base_model`, `entailment` and `tokenizer` loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group
from tandem.data.verifiable import QuestionFormat
from tandem.errors import ConfigError, DataError, ModelError, nearest_name
from tandem.judges import Judge
from tandem.judges.agreement import Equivalence
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.tasks.micro import posts
from tandem.tasks.micro.annotators import (
    START_SEED,
    Annotator,
    Camps,
    Drifting,
    DriftingTruth,
    Tastes,
    TranslationRater,
    Truth,
    known_facts,
)
from tandem.tasks.micro.arithmetic import WORDING
from tandem.tasks.micro.same_facts import SameFacts
from tandem.tasks.micro.skills import DEMONSTRATION, SKILLS, draw_prompts
from tandem.tasks.micro.translation_metrics import translation_tallies
from tandem.tasks.micro.truth import TruthParts, fact_rates, true_worth, truth_parts
from tandem.tasks.micro.words import ASSETS

SkillName = Literal["summaries", "dialogue", "arithmetic", "translation"]

__all__ = [
    "ASSETS",
    "Annotator",
    "Camps",
    "Drifting",
    "DriftingTruth",
    "SameFacts",
    "Micro",
    "TranslationRater",
    "SkillName",
    "Tastes",
    "Truth",
    "truth_parts",
    "true_worth",
]


@dataclass(frozen=True)
class Micro:
    """The micro task with one of its skills: summaries, dialogue, arithmetic or translation.

    Attributes:
        skill: "summaries" of posts, "dialogue" with helpful and harmful requests, "arithmetic"
            word problems with a chain of thought, or "translation" into a second surface.
        version: version of the frozen settings behind prompts, truth and base model.
        shared: summaries only: chance that a demonstration tells a fact with the wrong value that
            all demonstrations share for its kind, so that a policy's samples agree on it.
    """

    skill: SkillName = "summaries"
    version: str = "1"
    shared: float = 0.0

    def __post_init__(self) -> None:
        if self.skill not in SKILLS:
            known_skills = get_args(SkillName)
            raise ConfigError(
                f"the micro world has no skill `{self.skill}`",
                f"its skills are {', '.join(known_skills)}",
                f"name one of them.{nearest_name(str(self.skill), known_skills)}",
            )
        if not 0 <= self.shared <= 1 or (self.shared and self.skill != "summaries"):
            raise ConfigError(
                f"the micro world's {self.skill} with shared = {self.shared}",
                "it is a chance, and only summaries have facts to be wrong about",
                "give a number between 0 and 1, with the skill summaries",
            )
        if self.version != "1":
            raise ConfigError(
                f"the micro world has no version `{self.version}`",
                "results of different versions cannot be compared, so no other is substituted",
                'use version "1"',
            )

    @property
    def name(self) -> str:
        """The task's name in tables and on the command line."""
        return f"micro-{self.skill}"

    @property
    def wording(self) -> QuestionFormat | None:
        """How problems are put and answers read, where there is one checkable answer."""
        return WORDING if self.skill == "arithmetic" else None

    def model(self) -> Path:
        """The folder of the shipped base model."""
        return _asset("base", "base_model")

    def gold(self) -> Judge | None:
        """The shipped gold reward: larger than the base, fitted to other people's comparisons.

        It is the same for every seed; `experiments/micro_gold.py` makes it. None for translation,
        of which it has seen nothing, and in a copy of the package that lacks it.
        """
        if self.skill == "translation" or not (ASSETS / "gold" / "config.json").exists():
            return None
        from tandem.judges.reward_model import RewardModel  # loads torch

        return RewardModel(Checkpoint(ASSETS / "gold", "gold_rm"))

    def entailment(self) -> Path:
        """The folder of the shipped entailment classifier."""
        return _asset("entailment", "entailment")

    def same(self) -> dict[str, Equivalence]:
        """What makes two answers the same, by name: the shipped classifier first, if there is one.

        `entailment` asks the classifier in both directions, `facts` reads what answers claim. The
        classifier has read no translations, so these have `facts` alone.
        """
        exact: dict[str, Equivalence] = {"facts": SameFacts()}
        if self.skill == "translation" or not (ASSETS / "entailment" / "config.json").exists():
            return exact
        from tandem.judges.semantic import Entailment  # loads torch

        return {"entailment": Entailment(self.entailment()), **exact}

    def prompts(self, split: str, n: int, seed: Seed, *, round: int | None = None) -> Groups:
        """Prompts without completions.

        Splits never share a prompt: "sft", "preference", "unlabelled", and "evaluation", whose
        prompts all contain a combination of slots that was held out from training.

        Args:
            split: one of the four.
            n: how many, all different.
            seed: where the draws start.
            round: shifts the mixture of topics, each round to another, for drift by prompts.
        """
        return Groups.of(draw_prompts(self.skill, split, n, seed, round))

    def demonstrations(self, n: int, seed: Seed) -> Groups:
        """Prompts of the split "sft" with one demonstration each: good on average, imperfect."""
        asked = self.prompts("sft", n, seed)
        return self._misled(asked) if self.shared else self.references(asked)

    def references(self, groups: Iterable[Group]) -> Groups:
        """The groups with one completion each, a reference of the demonstrations' quality."""
        return Groups.of(self._answered(group, ideal=False) for group in groups)

    def ideals(self, groups: Iterable[Group]) -> Groups:
        """The groups with one completion each, the best there is."""
        return Groups.of(self._answered(group, ideal=True) for group in groups)

    def truth(self) -> Truth:
        """The judge that writes the true worth of every completion to `scores`."""
        return Truth()

    def annotator(self, flips: float = 0.25, seed: Seed = START_SEED) -> Annotator:
        """Somebody who compares completions (0, 1), (2, 3), ... and errs at this rate."""
        return Annotator(flips=flips, seed=seed)

    def rater(
        self, noise: float = 0.2, flips: float = 0.0, seed: Seed = START_SEED
    ) -> TranslationRater:
        """Somebody who rates every completion on a scale, and likes the better rated one more."""
        return TranslationRater(noise=noise, flips=flips, seed=seed)

    def tastes(self, cyclic: float = 1.0, flips: float = 0.0, seed: Seed = START_SEED) -> Tastes:
        """A population whose preference goes from a ranking (0) to a circle (1)."""
        return Tastes(cyclic=cyclic, flips=flips, seed=seed)

    def count_inventions(self, groups: Iterable[Group]) -> TruthParts:
        """Rates of facts right, wrong and invented over all completions of summaries.

        Raises:
            DataError: the groups are not about summaries.
        """
        if self.skill != "summaries":
            raise DataError(
                f"`{self.name}` has no facts to invent",
                "invented facts are counted in summaries of posts only",
                'use `Micro("summaries")`, or `truth()` for the other skills',
            )
        return fact_rates((known_facts(g), c.text) for g in groups for c in g.completions)

    def tallies(self) -> dict[str, Callable[[Group], float]]:
        """What is counted in an answer beside its worth: column -> the group's mean count.

        `invented` are the facts of a summary that the post does not tell; translations have `BLEU`
        and `chrF` against the reference, where sacrebleu is installed.
        """
        if self.skill == "translation":
            return translation_tallies()
        return {"invented": invented_facts} if self.skill == "summaries" else {}

    def _misled(self, groups: Iterable[Group]) -> Groups:
        """The groups with a demonstration each, by writers who share an invention."""
        writer = replace(DEMONSTRATION, shared=self.shared)

        def text(group: Group) -> str:
            rng = START_SEED.at("misled", group.id).rng()
            return posts.write_summary(known_facts(group), rng, writer)

        return Groups.of(
            Group(g.prompt, (Completion(text(g), author="demonstration"),)) for g in groups
        )

    def _answered(self, group: Group, *, ideal: bool) -> Group:
        how, meta = SKILLS[self.skill], known_facts(group)
        rng = START_SEED.at("reference", group.id).rng()
        text = how.ideal(meta) if ideal else how.demonstrate(meta, rng)
        author = "ideal" if ideal else "demonstration"
        return replace(
            group,
            completions=(Completion(text, author=author),),
            scores=None,
            preferences=(),
            clusters=None,
        )


def invented_facts(group: Group) -> float:
    """Return how many facts a summary invents, on average over the group's completions."""
    parts = (truth_parts(known_facts(group), c.text) for c in group.completions)
    return sum(p["invented"] for p in parts) / len(group)


def _asset(name: str, script: str) -> Path:
    folder = ASSETS / name
    if not (folder / "config.json").exists():
        raise ModelError(
            f"{folder} holds no model",
            "the micro world ships its models with the package, and this copy lacks one",
            f"make it with `python -m tandem.tasks.micro.{script}`",
        )
    return folder

"""What is compared: methods, seeds, one budget, and what is expected to come out. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from tandem.data.formats.options import ReadingOptions
from tandem.errors import ConfigError, nearest_name
from tandem.runs.names import folder_name
from tandem.tasks import Sizes

OPPONENT, BASE = "SFT", "base"
"""The policy that every other is compared with: SFT, or the model itself where it is the start."""
Start = Literal["auto", "sft", "model"]
Evaluation = Literal["none", "quick", "full"]


@dataclass(frozen=True)
class Entry:
    """One row of the table: a method with its settings.

    Attributes:
        name: the row's name, for example `RSO hinge`.
        method: a row of `tandem.methods.METHODS`.
        recipe: `module:function`, another recipe with the method's settings: its controls, or
            yours; None is the method's own.
        configs: settings by name, every one of them: `sft`, `reward`, the method's own.
        paper: column -> the number that the paper printed; shown beside ours, never mixed up.
        changed: the settings that the plan names, for the reader.
    """

    name: str
    method: str
    configs: Mapping[str, Any] = field(repr=False)
    paper: Mapping[str, float] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None

    @property
    def scope(self) -> str:
        """The entry's folder."""
        return folder_name(self.name)


@dataclass(frozen=True)
class Claim:
    """An ordering that is expected: `a < b` on the first judge."""

    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.a} < {self.b}"


@dataclass(frozen=True)
class Plan:
    """A comparison, written down before it is run.

    >>> dpo = Entry("DPO", "dpo", {})
    >>> Plan("mine", "Is DPO better?", (dpo,), (0, 1), Sizes(), start="model").policies
    ('base', 'DPO')

    Attributes:
        title: of the report.
        question: what it is to answer.
        entries: the methods, in the table's order; base and SFT are always there.
        seeds: training seeds; all meet the same evaluation prompts.
        sizes: how much of the task is used.
        claims: orderings expected beforehand; Holm corrects over all of them.
        task: a task by name, or None with `model` and `data`.
        model: folder of your model: with `data`, or with a task that comes without one.
        data: your preferences.
        reading: how the data is read.
        exam: seed of the evaluation prompts.
        referee: a language model, the task's base, compares every answer with SFT's, in both
            orders: the AutoSxS column of the RSO paper.
        seconds: start no seed that would end later than this; None runs all seeds.
        fewest_seeds: seeds that are always done, the others only until every claim is resolved
            (docs/adr/0019); None runs all seeds.
        costs: row -> seconds that it took when it was measured, without what rows above it had
            done for it; only their proportions are used.
        start: what methods start from: `sft`, or the `model` as it is, which is then the opponent;
            `auto` until it is known which model it is (`start_of`).
        evaluate: `full` judges every policy's answers; `quick` reads held-out answers with them
            and shows samples; `none` trains alone.
    """

    title: str
    question: str
    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]
    sizes: Sizes
    claims: tuple[Claim, ...] = ()
    task: str | None = None
    model: str | None = None
    data: str | None = None
    reading: ReadingOptions = ReadingOptions()
    exam: int = 0
    referee: bool = False
    seconds: float | None = None
    fewest_seeds: int | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    start: Start = "sft"
    evaluate: Evaluation = "full"

    def __post_init__(self) -> None:
        if not self.entries or not self.seeds:
            raise ConfigError(
                f"{len(self.entries)} methods and {len(self.seeds)} seeds",
                "a comparison needs at least one of each",
                "name methods with --methods and give --seeds 1 or more",
            )
        if self.evaluate != "full" and self.fewest_seeds is not None:
            raise ConfigError(
                f"evaluate = {self.evaluate} with --until_resolved",
                "a claim is resolved by judges of the answers, and none is asked",
                "give --evaluate full, or leave --until_resolved out",
            )
        names = [OPPONENT, BASE, *(e.name for e in self.entries)]
        scopes = [folder_name(n) for n in names]
        for k, scope in enumerate(scopes):
            if not scope[:1].isalpha():
                raise ConfigError(
                    f"an entry is called {names[k]!r}",
                    "its folder is named after it, and begins with a letter",
                    "give another name, for example `DPO 3`",
                )
            if scope in scopes[:k]:
                raise ConfigError(
                    f"two entries are called {names[k]!r}",
                    "an entry's name is its row in the table and its folder; base and SFT are "
                    "always there",
                    "rename one, or leave it out",
                )
        names = [n for n in names if n != OPPONENT or self.start != "model"]
        for claim in self.claims:
            for name in (claim.a, claim.b):
                if name not in names:
                    raise ConfigError(
                        f"the claim `{claim}` names {name!r}.{nearest_name(name, names)}",
                        f"a claim is about the policies that are compared: {', '.join(names)}",
                        "correct the name, or add the entry"
                        + (", or give --start sft" if name == OPPONENT else ""),
                    )

    @property
    def opponent(self) -> str:
        """The policy that every other is compared with."""
        return BASE if self.start == "model" else OPPONENT

    @property
    def policies(self) -> tuple[str, ...]:
        """Every row of the table, by name."""
        return (*dict.fromkeys((BASE, self.opponent)), *(e.name for e in self.entries))

    @property
    def start_label(self) -> str:
        """What every method starts from, in words: the task, its model, or model and data."""
        if self.task is None:
            return f"{self.model} on {self.data}"
        return self.task if self.model is None else f"{self.task} with {self.model}"

    def folder(self, out: Path, seed: int) -> Path:
        """Return a seed's run folder."""
        return out / f"seed-{seed}"


def parse_claims(text: str) -> list[Claim]:
    """Read `SFT < best-of-n < PPO` as the claims between neighbours.

    Raises:
        ConfigError: there is no `<` between names.
    """
    names = [part.strip() for part in text.split("<")]
    if len(names) < 2 or not all(names):
        raise ConfigError(
            f"claim {text!r}",
            "a claim is an ordering of policies by their worth",
            'write it as "SFT < DPO", or as a chain "SFT < DPO < PPO"',
        )
    return [Claim(a, b) for a, b in pairwise(names)]

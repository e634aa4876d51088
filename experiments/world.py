"""How far is the micro world from people? Its own numbers beside what is known of them.

    python experiments/world.py             # docs/claims/world.md
    python experiments/world.py --check     # exit code 1 if the page is not that of the outcomes

The world's numbers are computed from the outcomes in docs/results, or from the task itself, which
samples no model. What is known of people stands in docs/claims/people.toml, with its sources. A
number whose outcomes are not stored is "not run yet".
"""

from __future__ import annotations

import argparse
import math
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from evidence import Absent, Store, follow_path
from pages import markdown
from tandem.data.groups import Groups
from tandem.data.record import Completion
from tandem.rng import Seed
from tandem.runs.atomic_files import write_text
from tandem.statistics import Estimate, mean_over_seeds, share_of
from tandem.tasks.micro import Annotator, Micro
from tandem.tasks.micro.annotators import Truth
from tandem.tasks.micro.posts import any_quality, write_summary

DOCS = Path(__file__).parents[1] / "docs"
PEOPLE, PAGE = DOCS / "claims" / "people.toml", DOCS / "claims" / "world.md"
PROMPTS = 500
"""Prompts from the task on which its own numbers are computed."""
SEED = 7920
"""Where they are drawn; no table uses it."""


@dataclass(frozen=True)
class Number:
    """A number of the micro world.

    Attributes:
        name: what it is.
        value: in the unit of the people's.
        spelled: with its unit, and its interval where it has one.
        origin: where it was computed from.
        people: the table of people.toml that it stands beside; empty where nothing is known.
    """

    name: str
    value: float
    spelled: str
    origin: str
    people: str = ""


def main(words: Sequence[str] | None = None) -> int:
    """Write the page, or say whether it would change."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--results", type=Path, default=DOCS / "results")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args(words)
    people = tomllib.loads(PEOPLE.read_text(encoding="utf-8"))
    text = world_page(list(world_numbers(Store(asked.results))), people)
    if asked.check:
        if asked.page.exists() and asked.page.read_text(encoding="utf-8") == text:
            return 0
        print(f"{asked.page} is out of date: `make pages` makes it again", file=sys.stderr)
        return 1
    write_text(asked.page, text)
    print(asked.page)
    return 0


def world_numbers(store: Store) -> Iterator[Number]:
    """Yield every number; one whose outcomes are not there is nan and says what is missing."""
    for name, measure_all in (("people", people_of_task), ("room", room_of_task)):
        try:
            yield from measure_all(store)
        except Absent as error:
            yield Number(name, math.nan, f"not run yet: {error}", "full")
    for name, people, origin, measure in MEASURED:
        try:
            value, spelled = measure(store)
        except Absent as error:
            value, spelled = math.nan, f"not run yet: {error}"
        yield Number(name, value, spelled, origin, people)


# --- from the task --------------------------------------------------------------------------------


def people_of_task(store: Store) -> Iterator[Number]:
    """Let two annotators of the standard task compare the same pairs of written summaries."""
    flips = follow_path(store.results("full"), ["budget", "flips"])
    pairs = written_pairs(PROMPTS)
    first, second = (
        votes_of(Annotator(flips=flips, seed=Seed(SEED).at(who)), pairs) for who in ("a", "b")
    )
    worth = np.array([g.scores for g in Truth()(pairs)], np.float64)
    truth = np.where(worth[:, 0] > worth[:, 1], 1.0, 0.0)
    clear = worth[:, 0] != worth[:, 1]
    told = f"the task: {int(clear.sum()):,} pairs of summaries written by program"
    agree = share_of((first == second)[clear].astype(np.float64))
    yield Number("two annotators agree", 100 * agree.mean, _percent(agree), told, "agreement")
    right = share_of((first == truth)[clear].astype(np.float64))
    yield Number("an annotator agrees with the truth", 100 * right.mean, _percent(right), told)
    equal = share_of((~clear).astype(np.float64))
    yield Number("written pairs that are equally good", 100 * equal.mean, _percent(equal), told)


def written_pairs(n: int) -> Groups:
    """Return evaluation prompts with two summaries each, by writers from careless to careful."""
    found = []
    for group in Micro().prompts("evaluation", n, Seed(SEED)):
        rng = Seed(SEED).at("written", group.id).rng()
        texts = [write_summary(group.prompt.meta, rng, any_quality(rng)) for _ in range(2)]
        found.append(replace(group, completions=tuple(Completion(text) for text in texts)))
    return Groups.of(found)


def votes_of(annotator: Annotator, pairs: Groups) -> np.ndarray:
    """[N] 1.0 where he prefers the first."""
    return np.array([g.preferences[0].p for g in annotator(pairs)], np.float64)


def room_of_task(store: Store) -> Iterator[Number]:
    """How good answers can be, and how good those of SFT and of the best policy are."""
    task = Micro()
    ideal = task.ideals(task.prompts("evaluation", PROMPTS, Seed(SEED)))
    best = float(np.mean([g.scores[0] for g in Truth()(ideal) if g.scores is not None]))
    told = f"the task: the best summary of {PROMPTS} prompts"
    yield Number("worth of a perfect answer", best, f"{best:.2f} points", told)
    rows = {p["policy"]: p for p in store.results("full")["policies"] if p.get("truth")}
    names = ["base", "SFT", max(rows, key=lambda n: rows[n]["truth"]["mean"])]
    for name in names:
        worth = rows[name]["truth"]["mean"]
        spelled = f"{worth:.2f} points, {worth / best:.0%} of a perfect one"
        yield Number(f"worth of {name}'s answers", worth, spelled, "full")


# --- from stored outcomes -------------------------------------------------------------------------


def _percent(x: Estimate) -> str:
    if math.isnan(x.low):
        return f"{x.mean:.1%}"
    return f"{x.mean:.1%} [{x.low:.1%}, {x.high:.1%}]"


def _stored(x: Mapping[str, Any]) -> str:
    return f"{x['mean']:.1%} [{x['low']:.1%}, {x['high']:.1%}]"


def _held_out(store: Store) -> tuple[float, str]:
    found = follow_path(store.results("full"), ["reward", "numbers", "measures", "accuracy"])
    return 100 * found["mean"], _stored(found)


def _ceiling(store: Store) -> tuple[float, str]:
    """What somebody who knows the truth would score there: he misses the annotator's errors."""
    right = 1 - follow_path(store.results("full"), ["budget", "flips"])
    return 100 * right, f"{right:.1%}"


def _on_policy(store: Store) -> tuple[float, str]:
    path = ["rewards", {"policy": "pi_sft", "reward": "r_phi"}, "accuracy"]
    found = follow_path(store.results("rlp-rewards"), path)
    return 100 * found["mean"], _stored(found)


def _gold_people(store: Store) -> tuple[float, str]:
    wrong = follow_path(store.results("gold-reward"), ["gold", "people err"])
    return 100 * (1 - wrong), f"{1 - wrong:.1%}"


def _peak(*path: str) -> Callable[[Store], tuple[float, str]]:
    """The KL at which truth turns over: the square of the fitted peak, a mean over seeds."""

    def measure(store: Store) -> tuple[float, str]:
        found = follow_path(store.results("overoptimisation"), [*path, "peak"])
        known = [d for d in found if d is not None]
        if len(known) < len(found) or len(known) < 2:
            return math.nan, f"turns over in {len(known)} of {len(found)} seeds"
        x = mean_over_seeds(np.square(known))
        return x.mean, f"{x.mean:.2f} [{x.low:.2f}, {x.high:.2f}] nats"

    return measure


def _peak_per_token(store: Store) -> tuple[float, str]:
    nats, _ = _peak("fits", "free")(store)
    curve = follow_path(store.results("overoptimisation"), ["curves", "free", "length"])
    length = float(np.mean(curve))
    return nats / length, f"{nats / length:.3f} nats a token, of {length:.0f} tokens"


def _win(store: Store) -> tuple[float, str]:
    found = store.results("full")
    rows = [p for p in found["policies"] if p.get(f"win vs {found['opponent']}")]
    best = max(rows, key=lambda p: p[f"win vs {found['opponent']}"]["mean"])
    win = best[f"win vs {found['opponent']}"]
    return 100 * win["mean"], f"{_stored(win)}, {best['policy']}"


def _ties(store: Store) -> tuple[float, str]:
    found = store.results("full")
    shares = [p[k] for p in found["policies"] for k in [f"ties vs {found['opponent']}"] if p.get(k)]
    if not shares:
        raise Absent("no policy has ties")
    return 100 * mean(shares), f"{min(shares):.0%} to {max(shares):.0%} by policy"


def _spread(store: Store) -> tuple[float, str]:
    found = store.results("full")
    key = f"{found['judge']} gain"
    gains = [p["per_seed"][key] for p in found["policies"] if p.get("per_seed", {}).get(key)]
    spreads = [stdev(x) for x in gains if len(x) > 1 and any(x)]
    if not spreads:
        raise Absent("no policy has several seeds")
    told = f"{min(spreads):.2f} to {max(spreads):.2f} points, median {np.median(spreads):.2f}"
    return float(np.median(spreads)), told


def _labels(store: Store) -> tuple[float, str]:
    pairs = follow_path(store.results("full"), ["budget", "pairs"])
    return pairs, f"{pairs:,} pairs"


MEASURED: tuple[tuple[str, str, str, Callable[[Store], tuple[float, str]]], ...] = (
    ("people behind gold agree with the truth", "", "gold-reward", _gold_people),
    ("reward against held-out judgments, with their errors", "reward", "full", _held_out),
    ("the truth itself against those judgments", "", "full", _ceiling),
    ("reward against the truth, pairs of SFT", "", "rlp-rewards", _on_policy),
    ("KL at which truth turns over, PPO", "peak", "overoptimisation", _peak("fits", "free")),
    ("the same a token", "", "overoptimisation", _peak_per_token),
    ("KL at which truth turns over, best-of-n", "peak", "overoptimisation",
     _peak("best_of_n", "single", "fit")),
    ("best policy wins over SFT", "win", "full", _win),
    ("policies' answers that are as good as SFT's", "", "full", _ties),
    ("spread of a method's gain over training seeds", "", "full", _spread),
    ("labelled pairs", "labels", "full", _labels),
)  # fmt: skip
"""Name, table of people.toml, file of outcomes, and how it is computed."""


# --- the page -------------------------------------------------------------------------------------


def world_page(numbers: Sequence[Number], people: Mapping[str, Any]) -> str:
    """Return the page."""
    head = ["what", "micro", "from", "people and large models", "micro is"]
    lines = [
        [n.name, n.spelled, n.origin, *_beside(n, people.get(n.people))] for n in numbers
    ]  # fmt: skip
    apart = [n.name for n in numbers if _place(n, people.get(n.people)) in ("below", "above")]
    parts = [
        "# How far the micro world is from people",
        "Generated by `python experiments/world.py` from the outcomes in "
        "[docs/results](../results/index.md), from the task, and from `docs/claims/people.toml`.",
        "The [claims](index.md) are judged in a small artificial language in which the truth is a "
        "program. Whether what holds there holds elsewhere depends on how alike the two are. "
        "Numbers of the micro world are computed; those of people were read in papers.",
        markdown(head, lines),
        f"Outside of what is known of people: {'; '.join(apart) or 'nothing'}.",
        "What no row says: people's errors are not drawn evenly, their truth is not one number, "
        "and a model of a million parameters knows nothing but this language. A method that needs "
        "knowledge, such as clustering by meaning, has an easier world here than anywhere else. No "
        "paper of the seeds trained its methods more than once, so the spread over seeds has "
        "nothing beside it.",
    ]
    return "\n\n".join(parts) + "\n"


def _beside(number: Number, known: Mapping[str, Any] | None) -> list[str]:
    if known is None:
        return ["-", "-"]
    links = ", ".join(f"[{k + 1}]({link})" for k, link in enumerate(known["sources"]))
    return [f"{known['said']} ({links})", _place(number, known)]


def _place(number: Number, known: Mapping[str, Any] | None) -> str:
    """Say whether a number lies inside what was read, below or above it."""
    if known is None or math.isnan(number.value):
        return "-"
    if number.value < known["low"]:
        return "below"
    return "above" if number.value > known["high"] else "inside"


if __name__ == "__main__":
    sys.exit(main())

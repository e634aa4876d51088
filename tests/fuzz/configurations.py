"""Settings of `tandem run`, as flags and as files: each is used as it was given, or refused."""

from __future__ import annotations

import json
import math
import random
import tomllib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from fuzz.corpus import Corpus
from fuzz.damage import change_bytes, change_tree, odd_value
from fuzz.verdicts import Answer, Verdict, give_command, judge_answer, list_files, name_changes
from tandem.cli.run import default_configs
from tandem.cli.settings import Setting, leaf_settings, to_toml
from tandem.methods import METHODS, load_method

TINY = {"demonstrations": 4, "pairs": 4, "held_out": 4, "prompts": 4, "evaluation": 4}
SLIPS = ("{}x", "x{}", "{}.{}", "{}_", "_{}", "{} ")


class Configurations:
    """A run's settings: within their ranges, outside, of another type, misspelt, or damaged."""

    name, goal, deadline = "configurations", 10_000, 120.0

    def __init__(self, corpus: Corpus) -> None:
        del corpus

    def prepare(self, home: Path) -> None:
        """Learn every method's settings."""
        self.settings: dict[str, list[Setting]] = {}
        for name in METHODS:
            configs = default_configs(load_method(name), "micro")
            found = [s for prefix, c in configs.items() for s in leaf_settings(c, prefix)]
            self.settings[name] = [s for s in found if not s.name.startswith("sizes.")]

    def check(self, dice: random.Random, folder: Path) -> Verdict:
        """Draw settings and give them to a dry run."""
        method = dice.choice(list(METHODS))
        known = self.settings[method]
        how = dice.choice(("right", "right", "outside", "odd", "misspelt", "damaged", "sizes"))
        chosen = dice.sample(known, min(len(known), dice.randint(1, 3)))
        values = {s.name: inside(s, dice) for s in chosen}
        values = {k: v for k, v in values.items() if v is not NOTHING}
        wrong = False
        if how == "outside":
            ranged = [s for s in known if s.range is not None]
            bad = dice.choice(ranged)
            values[bad.name] = outside(bad, dice)
            wrong = True
        elif how == "odd":
            values[dice.choice(known).name] = odd_value(dice)
        elif how == "misspelt":
            values[dice.choice(SLIPS).format(*[dice.choice(known).name] * 2)] = 1
            wrong = True
        elif how == "sizes":
            size = dice.choice(list(TINY))
            values[f"sizes.{size}"] = dice.choice((0, -1, 10**12, 10**30, 1.5, "many", None, 2**31))
        words = spell_settings(values, dice, folder, damaged=how == "damaged")
        return self._judged(method, words, values, folder, wrong=wrong, right=how == "right")

    def _judged(
        self,
        method: str,
        words: list[str],
        values: Mapping[str, Any],
        folder: Path,
        *,
        wrong: bool,
        right: bool,
    ) -> Verdict:
        start = ["run", method, "--task=micro", f"--out={folder / 'out'}"]
        small = [f"--sizes.{k}={n}" for k, n in TINY.items() if f"sizes.{k}" not in values]
        before = list_files(folder)
        answer = give_command([*start, *small, *words, "--dry-run"])
        verdict = Verdict("accepted" if answer.code == 0 else "refused", reason=answer.reason)
        verdict.told = {"words": [method, *words]}
        judge_answer(answer, verdict)
        if answer.code == 2 and not verdict.faults:  # without --dry-run it makes nothing either
            again = give_command([*start, *small, *words])
            judge_answer(again, verdict, (2,))
        if changes := name_changes(before, list_files(folder)):
            verdict.blame("made", ", ".join(changes))
        if wrong and answer.code == 0:
            verdict.blame("accepted", f"{words}")
        if right and answer.code == 0:
            judge_kept(answer, values, verdict)
        if right and answer.code == 2 and not is_a_clash(answer.err):
            verdict.blame("refused", f"{words}: {answer.err}")
        return verdict


NOTHING = object()


def bare(hint: Any) -> Any:
    """Return a type without its annotations and without None."""
    if get_origin(hint) is Annotated:
        return bare(get_args(hint)[0])
    members = [a for a in get_args(hint) if a is not NoneType]
    if NoneType in get_args(hint) and len(members) == 1:
        return bare(members[0])
    return hint


def inside(setting: Setting, dice: random.Random) -> Any:
    """Return a value that a setting may have, or NOTHING where the type does not tell."""
    hint, allowed = bare(setting.hint), setting.range
    if get_origin(hint) is Literal:
        return dice.choice(get_args(hint))
    if hint is bool:
        return dice.random() < 0.5
    if hint in (int, float) and allowed is not None:
        low = max(allowed.low, -100.0)
        high = min(allowed.high, max(low, 0) + 1000.0)
        value = dice.uniform(low, high) if hint is float else dice.randint(int(low), int(high))
        return value if value in allowed else NOTHING
    return NOTHING


def outside(setting: Setting, dice: random.Random) -> Any:
    """Return a number that a setting may not have."""
    allowed = setting.range
    assert allowed is not None
    tries = (-1, 0, 2, -0.001, 1.001, 10**18, -(10**30), math.inf, -math.inf, math.nan, 1e300)
    wrong = [x for x in tries if x not in allowed] or [math.nan]
    value = dice.choice(wrong)
    several = get_origin(bare(setting.hint)) in (tuple, list)
    return [value] * len(setting.default or (0, 0)) if several else value


def spell_settings(
    values: Mapping[str, Any], dice: random.Random, folder: Path, *, damaged: bool
) -> list[str]:
    """Write settings as flags, as TOML or as YAML, and return the words that name them."""
    how = dice.choice(("flags", "toml", "yaml")) if not damaged else dice.choice(("toml", "yaml"))
    if how == "flags":
        return [f"--{name}={spell(value)}" for name, value in values.items()]
    table: Any = nest(values)
    if damaged and dice.random() < 0.5:
        table = change_tree(table, dice)
    path = folder / f"settings.{how}"
    try:
        text = to_toml(as_toml(table)) if how == "toml" else yaml.safe_dump(table)
        data = text.encode("utf-8", "surrogatepass")
    except (AttributeError, yaml.YAMLError, TypeError, ValueError):
        data = json.dumps(table).encode()
    if damaged and dice.random() < 0.8:
        data = change_bytes(data, dice)
    path.write_bytes(data)
    return [f"--config={path}"]


def spell(value: Any) -> str:
    """Spell a value as a flag has it."""
    return value if isinstance(value, str) else json.dumps(value)


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted names as nested tables."""
    table: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        place = table
        for key in path:
            if not isinstance(place.get(key), dict):
                place[key] = {}  # in the place of a value for the table as a whole
            place = place[key]
        place[last] = value
    return table


def as_toml(value: Any) -> Any:
    """Return a value that TOML can spell."""
    if isinstance(value, dict):
        return {str(k): as_toml(v) for k, v in value.items()}
    return value


def judge_kept(answer: Answer, values: Mapping[str, Any], verdict: Verdict) -> None:
    """Note a setting that is not in the resolved settings as it was given."""
    lines = [x for x in answer.out.splitlines() if not x.startswith("#")]
    found = tomllib.loads("\n".join(lines))
    for name, value in values.items():
        place: Any = found
        for key in name.split("."):
            place = place.get(key) if isinstance(place, dict) else None
        given = value.name if isinstance(value, Enum) else value
        if isinstance(given, float):
            same = isinstance(place, int | float) and math.isclose(place, given, rel_tol=1e-12)
        else:
            same = place == given
        if not same:
            verdict.blame("lost", f"{name} = {value!r} became {place!r}")


def is_a_clash(err: str) -> bool:
    """True where two settings that are right by themselves do not go together."""
    return "it has to be" not in err and "unknown setting" not in err

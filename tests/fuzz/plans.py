"""Plans of `tandem bench`: TOML and YAML, right and damaged, through a dry run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from fuzz.configurations import TINY
from fuzz.corpus import Corpus
from fuzz.damage import change_bytes, change_tree, odd_value
from fuzz.verdicts import Verdict, give_command, judge_answer, list_files, name_changes

METHODS = ("dpo", "kto", "best_of_n", "ppo", "raft", "rso")
UNKNOWN = ("titel", "seed", "entries", "method", "claim", "", "size")


class Plans:
    """A plan: right, with a key that nobody reads, or damaged."""

    name, goal, deadline = "plans", 1_000, 120.0

    def __init__(self, corpus: Corpus) -> None:
        del corpus

    def prepare(self, home: Path) -> None:
        """Nothing is needed."""

    def check(self, dice: random.Random, folder: Path) -> Verdict:
        """Draw a plan and give it to a dry run."""
        plan: Any = draw_plan(dice)
        how = dice.choice(("right", "unknown", "damaged", "damaged", "damaged"))
        if how == "unknown":
            plan[dice.choice(UNKNOWN)] = odd_value(dice)
        elif how == "damaged":
            for _ in range(dice.randint(0, 2)):
                plan = change_tree(plan, dice)
        data = yaml.safe_dump(json.loads(json.dumps(plan))).encode()
        if how == "damaged" and dice.random() < 0.5:
            data = change_bytes(data, dice)
        path = folder / "plan.yaml"
        path.write_bytes(data)
        before = list_files(folder)
        answer = give_command(["bench", str(path), "--dry-run", f"--out={folder / 'out'}"])
        verdict = Verdict("accepted" if answer.code == 0 else "refused", reason=answer.reason)
        judge_answer(answer, verdict)
        if changes := name_changes(before, list_files(folder)):
            verdict.blame("made", ", ".join(changes))
        if how == "right" and answer.code != 0:
            verdict.blame("refused", answer.err)
        if how == "unknown" and answer.code != 2:
            verdict.blame("accepted", f"{plan}")
        return verdict


def draw_plan(dice: random.Random) -> dict[str, Any]:
    """Return a right plan of one to three entries."""
    names = dice.sample(METHODS, dice.randint(1, 3))
    entries = [
        {"method": name, "name": f"row-{k}", "settings": {"sampling": {"max_tokens": 8}}}
        for k, name in enumerate(names)
    ]
    return {
        "title": "a comparison",
        "task": "micro",
        "seeds": dice.randint(1, 3),
        "exam": dice.randint(0, 9),
        "referee": False,
        "claims": [f"SFT < {entries[0]['name']}"] if dice.random() < 0.3 else [],
        "sizes": dict(TINY),
        "settings": {"sft": {"epochs": dice.randint(1, 3)}, "reward": {"batch": 4}},
        "entry": entries,
    }

"""What the whole matrix of a group of answers costs each kind of preference, beside a reward model.

    python benchmarks/preferences.py [--answers 16] [--rounds N] [--threads N] [--out FILE]

The micro task's base model gets three heads, not fitted, because time does not depend on that: a
reward (Bradley-Terry, one reading an answer), a scalar plus cyclic head (one reading an answer, and
a form of n x n), and a model of two arguments (two readings a pair). Each compares all pairs of the
answers to 16 prompts, in turn; medians of processor time a group.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group
from tandem.judges.open_preference import open_preference
from tandem.judges.preference_model import PreferenceModel
from tandem.judges.reward_model import RewardModel
from tandem.machine import Machine
from tandem.models.loading import EMBEDDING, PAIR
from tandem.models.opening import open_scalar
from tandem.models.saving import save_model
from tandem.models.tokenise import tokenise
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.tasks.micro import Micro, posts

MACHINE = Machine(device="cpu", precision="fp32")
PROMPTS = 16


def heads(place: Path) -> dict[str, Any]:
    """Write a folder for each kind, from the micro base, and return its judge."""
    base, made = Micro().model(), {}
    kinds = {"reward": ({}, 0), "cyclic": ({"reads": EMBEDDING, "dimensions": 4}, 4),
             "two arguments": ({"reads": PAIR}, 0)}  # fmt: skip
    for name, (stored, dimensions) in kinds.items():
        model = open_scalar(base, MACHINE, fresh=Seed(1), dimensions=dimensions)
        model.inner.config.tandem = stored
        folder = place / name.replace(" ", "-")
        save_model(model.lm, load_tokenizer(base), folder)
        judge = RewardModel if name == "reward" else PreferenceModel
        made[name] = judge(Checkpoint(folder, name))
    return made


def groups(answers: int) -> Sequence[Group]:
    """Posts with that many different summaries each."""
    asked = Micro().prompts("evaluation", PROMPTS, Seed(0))
    made = []
    for g in asked:
        rng = Seed(0).at(g.id).rng()
        texts = (
            posts.write_summary(g.prompt.meta, rng, posts.any_quality(rng)) for _ in range(answers)
        )
        made.append(Group(g.prompt, tuple(Completion(text) for text in texts)))
    return list(tokenise(Groups.of(made), load_tokenizer(Micro().model())))


def main() -> None:
    """Measure, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    asked = groups(options.answers)
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        opened = {k: open_preference(j, MACHINE) for k, j in heads(Path(place)).items()}
        for turn in range(options.rounds + 1):
            for name, preference in opened.items():
                if name == "two arguments" and turn > 2:
                    continue
                began = time.process_time()
                for _ in preference.matrices(asked):
                    pass
                if turn:
                    spent = (time.process_time() - began) / len(asked)
                    taken.setdefault(name, []).append(spent)
    seconds = {name: statistics.median(times) for name, times in taken.items()}
    record = {
        "date": date.today().isoformat(), "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__, "threads": options.threads, "answers": options.answers,
        "prompts": PROMPTS, "cpu_seconds_a_group": seconds,
        "of_the_reward": {name: s / seconds["reward"] for name, s in seconds.items()},
        "rounds": {name: len(times) for name, times in taken.items()},
    }  # fmt: skip
    text = json.dumps(record, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""GRPO with a reward that you write in Python: no reward model, no labels.

    python examples/grpo_with_your_reward.py
    python examples/grpo_with_your_reward.py --model my-model --data prompts.jsonl

What `reward_funcs` is in TRL is a judge here: it is given groups of answers, and writes a score for
each. `group.prompt.meta` holds the columns of the file that are no prompt, such as `solution`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from example_data import arguments, example_model, write_pairs

from tandem import Group, Run, Sampling, encode, find_model, judge, sample, task_from_files
from tandem.methods import grpo
from tandem.methods.grpo import GRPOConfig
from tandem.training.optim import Optim


def reward(text: str) -> float:
    """Score one answer: here, how close it comes to six words."""
    return -abs(len(text.split()) - 6) / 6


@dataclass(frozen=True)
class YourReward:
    """The function above as a judge; a run remembers it by its fields, so raise `version`."""

    version: int = 1
    name: str = "your-reward"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with their scores."""
        for group in groups:
            yield replace(group, scores=np.array([reward(c.text) for c in group.completions]))


def main() -> tuple[float, float]:
    """Train; print and return the mean reward before and after."""
    options = arguments("GRPO with a reward in Python.")
    model = find_model(options.model or example_model())
    data = options.data or write_pairs(Path(options.out) / "pairs.jsonl")
    task = task_from_files(model, data)
    short = Sampling(max_tokens=256 if options.model else 24)
    rate = 1e-6 if options.model else 3e-4
    cfg = GRPOConfig(prompts=16, n=4, rounds=10, minibatch=16, optim=Optim(lr=rate))
    with Run(Path(options.out) / "grpo", seed=0) as run:
        prompts = run("prompts", encode, task.prompts, model, room=short.max_tokens)
        held_out = run("held-out", encode, task.evaluation[:50], model, room=short.max_tokens)
        policy = run("grpo", grpo.fit, model, prompts, YourReward(), cfg, sampling=short)
        means: list[float] = []
        for name, each in (("before", model), ("after", policy)):
            drawn = run(f"drawn-{name}", sample, each, held_out, n=1, sampling=short)
            judged = run(f"judged-{name}", judge, drawn, YourReward())
            means.append(float(np.mean([g.scores for g in judged if g.scores is not None])))
    print(f"mean reward on prompts that were not trained on: {means[0]:.2f} -> {means[1]:.2f}")
    print(f"the trained model: {policy.path}")
    return means[0], means[1]


if __name__ == "__main__":
    main()

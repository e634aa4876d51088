"""A reward model over HTTP: sample, let a server score, train on the best answers.

    python examples/reward_over_http.py
    python examples/reward_over_http.py --server http://localhost:8000/classify --route classify \\
        --model my-model --data prompts.jsonl

Without --server a small one is started on this machine, which speaks the plain contract:

    POST {"model": "...", "inputs": [{"prompt": [messages], "answer": "..."}]}
    ->   {"scores": [1.5, ...]}

Routes of vLLM are `classify`, `pooling` and `score`; see `tandem.judges.remote_reward`.
"""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from example_data import arguments, example_model, write_pairs
from loopback import score_rewards, serving

from tandem import (
    Group,
    Groups,
    JsonServer,
    RemoteReward,
    Run,
    Sampling,
    encode,
    find_model,
    judge,
    sample,
    select,
    task_from_files,
)
from tandem.methods import sft
from tandem.methods.sft import SFTConfig
from tandem.operators import best
from tandem.training.optim import Optim

RATE = {True: 1e-3, False: 2e-5}


def main() -> tuple[float, float]:
    """Train on the best of four; print and return the mean reward before and after."""
    options = arguments(
        "Train with a reward over HTTP.", server="address with its route", route="rewards, classify"
    )
    model = find_model(options.model or example_model())
    data = options.data or write_pairs(Path(options.out) / "pairs.jsonl")
    task = task_from_files(model, data)
    short = Sampling(max_tokens=256 if options.model else 32)
    there = nullcontext(options.server) if options.server else serving(score_rewards)
    with there as url, Run(Path(options.out) / "http", seed=0) as run:
        address = url if options.server else f"{url}/rewards"
        kept = Path(options.out) / "answers.sqlite"
        reward = RemoteReward(JsonServer(address, kept=kept), options.route or "rewards")
        prompts = run("prompts", encode, task.prompts[:200], model, room=short.max_tokens)
        drawn = run("drawn", sample, model, prompts, n=4, sampling=short)
        # a stage is remembered by its arguments, and a loopback address changes: so no stage
        scored = Groups.of(judge(drawn, reward, machine=run.machine))
        chosen = run("chosen", select, scored, best())
        config = SFTConfig(epochs=2, batch=16, optim=Optim(lr=RATE[not options.model]))
        policy = run("trained", sft.fit, model, chosen.map(without_scores), config)
        held_out = run("held-out", encode, task.evaluation[:50], model, room=short.max_tokens)
        means = [
            mean_reward(run(f"answers-{k}", sample, each, held_out, n=1, sampling=short), reward,
                        run)
            for k, each in enumerate((model, policy))
        ]  # fmt: skip
    print(f"mean reward on held-out prompts: {means[0]:.3f} before, {means[1]:.3f} after")
    print(f"the model is in {policy.path}")
    return means[0], means[1]


def mean_reward(answers: Groups, reward: RemoteReward, run: Run) -> float:
    """Return the mean score of some answers."""
    return float(np.mean([g.scores.mean() for g in judge(answers, reward, machine=run.machine)]))


def without_scores(group: Group) -> Group:
    """Return a group without its scores: SFT imitates, and weighs nothing."""
    return replace(group, scores=None)


if __name__ == "__main__":
    main()

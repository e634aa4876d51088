"""Does a reward learn more from soft labels than from the majority of the same votes?

    python experiments/soft_labels.py [--posts 1200] [--seeds 3] [--out FILE]

Three simulated people of known accuracy judge posts of the micro world, each pair thrice. The
reward is fitted once on what most of them said and once on P(better) of the annotator model, with
the same seed and settings, and examined on other posts by the truth.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.judges.reward_model import RewardModel
from tandem.labelling.annotator_model import fit_annotators
from tandem.labelling.data_access import Answered, draw_posts, micro_model
from tandem.labelling.judgements import Comparison
from tandem.methods import reward
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages import encoding
from tandem.stages.judging import judge
from tandem.statistics import mean_of
from tandem.training.optim import Optim

ACCURACY = {"ann": 0.92, "bob": 0.75, "cleo": 0.6}


def votes_on(posts: list[tuple[Answered, int]], seed: Seed) -> list[Comparison]:
    """Return every person's word on every post."""
    out = []
    for k, (_, better) in enumerate(posts):
        for name, share in ACCURACY.items():
            draw = seed.at(name, k)
            right = draw.at("right").uniform() < share
            left = draw.at("left").uniform() < 0.5
            out.append(Comparison((k, 0, 1), name, better if right else -better, left))
    return out


def labelled(posts: list[tuple[Answered, int]], p: dict[int, float]) -> Groups:
    """Return the posts as groups with these labels."""
    return Groups.of(
        Group(
            Prompt(row.id, row.text, row.messages),
            tuple(Completion(a) for a in row.answers),
            preferences=(Preference(0, 1, p[k]),),
        )
        for k, (row, _) in enumerate(posts)
    )


def accuracy(
    folder: Path, train: Groups, exam: Groups, better: list[int], seed: int
) -> list[float]:
    """Fit a reward and return, for each post of the exam, whether it is right."""
    base = Checkpoint(micro_model(), "base")
    cfg = reward.RewardConfig(epochs=3, head="zero", optim=Optim(lr=1e-3))
    with Run(folder, seed=seed) as run:
        fitted = reward.recipe(run, base, run("train", encoding.encode, train, base), cfg)
        scored = run("exam", judge, exam, RewardModel(fitted))
    return [
        float((g.scores[0] > g.scores[1]) == (b > 0))
        for g, b in zip(scored, better, strict=True)
        if g.scores is not None
    ]


def main() -> None:
    """Run it and print one line a way, and their paired difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", type=int, default=1200)
    parser.add_argument("--exam", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    right: dict[str, list[list[float]]] = {"majority": [], "soft": []}
    for seed in range(options.seeds):
        drawn = draw_posts(options.posts + options.exam, Seed(seed))
        posts, exam = drawn[: options.posts], drawn[options.posts :]
        votes = votes_on(posts, Seed(seed).at("votes"))
        most = {
            k: float(sum(v.strength for v in votes[3 * k : 3 * k + 3]) > 0)
            for k in range(len(posts))
        }
        model = fit_annotators(votes, repeats=0)
        soft = {u[0]: p for u, p in model.labels.items()}
        asked = labelled(exam, dict.fromkeys(range(len(exam)), 0.5))
        better = [b for _, b in exam]
        for name, p in (("majority", most), ("soft", soft)):
            with tempfile.TemporaryDirectory() as folder:
                train = labelled(posts, p)
                right[name].append(accuracy(Path(folder), train, asked, better, seed))
    found = {name: mean_of(np.array(rows)) for name, rows in right.items()}
    gap = mean_of(np.array(right["soft"]) - np.array(right["majority"]))
    for name, e in {**found, "soft minus majority": gap}.items():
        print(f"{name:<20} {e.mean:+.3f} [{e.low:+.3f}, {e.high:+.3f}]")
    if options.out:
        rows = {n: [e.mean, e.low, e.high] for n, e in {**found, "difference": gap}.items()}
        settings = {"posts": options.posts, "exam": options.exam, "seeds": options.seeds}
        rows |= {"accuracy_of_people": ACCURACY, **settings}
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""RLP on text that this project did not write: AlpacaEval's groups, and a story model.

    python experiments/rlp_text.py --data alpacaeval_groups.jsonl.gz --model stories260k

First: does agreement point at quality there? Completions that the sentence encoder reads whole, in
groups with at least ten of them, are clustered by their embeddings; the largest cluster's mean
win_prob is compared with the rest's, and with clusters dealt at random. Then the whole recipe
runs once, with small sizes, on that model and those graded completions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tandem import cli
from tandem.formats import read
from tandem.groups import Group, Groups
from tandem.judges.agreement import Agreement
from tandem.judges.meaning import Embedding, sentence_encoder
from tandem.operators import confidence, shuffled_clusters
from tandem.operators.columns import largest_cluster
from tandem.rng import Seed
from tandem.statistics import mean_of, rate_by_prompt

LEAST = 10
SMALL = [
    "--rlp.same=embedding", "--rlp.n=4", "--rlp.gamma=0.25", "--sampling.max_tokens=48",
    "--sft.epochs=1", "--sft.batch=8", "--reward.batch=8", "--reward.epochs=1",
    "--ppo.prompts=8", "--ppo.rounds=2", "--ppo.minibatch=8", "--sizes.held_out_share=0.3",
]  # fmt: skip


def fitting(groups: Iterable[Group]) -> Iterator[Group]:
    """Yield clustered groups without the completions that were too long, ten or more left."""
    for group in groups:
        assert group.clusters is not None
        kept = np.flatnonzero(group.clusters >= 0).tolist()
        if len(kept) >= LEAST:
            yield group.keep(kept)


def contrast(group: Group) -> float | None:
    """Mean score inside the largest cluster minus the mean outside; None if nothing is outside."""
    inside = largest_cluster(group, "contrast")
    outside = sorted(set(range(len(group))) - set(inside))
    if len(inside) < 2 or not outside or group.scores is None:
        return None
    return float(group.scores[inside].mean() - group.scores[outside].mean())


def agreement(data: Path, thresholds: Iterable[float], limit: int | None) -> None:
    """Print, for several thresholds, how often the largest cluster is the better one."""
    groups = read(data).groups[:limit]
    for threshold in thresholds:
        same = Embedding(sentence_encoder(), threshold, too_long="apart")
        clustered = Groups.of(fitting(Agreement(same)(groups)))
        dealt = Groups.of(shuffled_clusters()(clustered, Seed(0)))
        for name, those in (("largest cluster", clustered), ("dealt at random", dealt)):
            pairs = [(g.id, c) for g in those if (c := contrast(g)) is not None]
            gaps = [c for _, c in pairs]
            wins = rate_by_prompt([(np.sign(c) + 1) / 2 for c in gaps], [i for i, _ in pairs])
            sure = np.mean([confidence(g) >= 0.5 for g in those])
            print(
                f"cosine >= {threshold:.2f}  {name}: wins {wins}, mean win_prob gap "
                f"{mean_of(gaps)}, {len(pairs)} of {len(those)} groups (of {len(groups)}), "
                f"confident {sure:.2f}",
                flush=True,
            )


def short(data: Path, out: Path, count: int) -> Path:
    """Write the shortest graded completions of some groups, for a model of 512 tokens."""
    out.mkdir(parents=True, exist_ok=True)
    groups = [g for g in read(data).groups if len(g.prompt.text) < 200 and g.scores is not None]
    few: list[Group] = []
    for group in groups:
        kept = [k for k, c in enumerate(group.completions) if len(c.text) < 400]
        if len(kept) >= 2:
            few.append(replace(group.keep(kept[:4]), preferences=()))
    Groups.of(few[:count]).write(out / "short.parquet")
    return out / "short.parquet"


def main() -> None:
    """Measure agreement, then run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/rlp-text"))
    parser.add_argument("--groups", type=int, default=60)
    parser.add_argument("--limit", type=int, help="measure agreement on the first groups only")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.8])
    told = parser.parse_args()
    agreement(told.data, told.thresholds, told.limit)
    if told.model is not None:
        data = short(told.data, told.out, told.groups)
        words = ["run", "rlp", f"--model={told.model}", f"--data={data}", f"--out={told.out}/run"]
        raise SystemExit(cli.main([*words, *SMALL]))


if __name__ == "__main__":
    main()

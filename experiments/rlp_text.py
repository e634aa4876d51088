"""RLP on text that this project did not write: AlpacaEval's groups, and a story model.

    python experiments/rlp_text.py --data alpacaeval_groups.jsonl.gz --model stories260k

First: does agreement point at quality there? Completions that the sentence encoder reads whole, in
groups with at least ten of them, are clustered by their embeddings; the largest cluster's mean
win_prob is compared with the rest's, beside as many completions drawn at random and as many of
the longest. Then the whole recipe runs once, with small sizes, on that model and those
graded completions. Writes OUT/rlp-text.json and .md; `--page` makes the page again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pages import FOLDER, markdown, measured_today, not_again, with_interval
from tandem import cli
from tandem.data.formats import read_data
from tandem.data.groups import Groups
from tandem.data.record import FloatArray, Group
from tandem.judges.semantic import cluster_complete_linkage, embed_texts, sentence_encoder
from tandem.operators import cluster_share, rank_pairs
from tandem.operators.columns import largest_cluster
from tandem.report.results_file import read_results
from tandem.rng import Seed
from tandem.runs.environment import code_commit
from tandem.runs.records import read_records
from tandem.statistics import mean_of, rate_by_prompt

NAME = "rlp-text"
LEAST = 10
DEALS = 400
"""Random draws by which chance is known, for each prompt."""
SMALL = [
    "--rlp.same=embedding", "--rlp.n=4", "--rlp.gamma=0.25", "--sampling.max_tokens=48",
    "--sft.epochs=1", "--sft.batch=8", "--reward.batch=8", "--reward.epochs=1",
    "--ppo.prompts=8", "--ppo.rounds=2", "--ppo.minibatch=8", "--sizes.held_out_share=0.3",
]  # fmt: skip


def fitting(groups: Iterable[Group], rows: Mapping[str, FloatArray]) -> Groups:
    """Groups without the completions that were too long, ten or more left."""
    kept = (g.keep([k for k, c in enumerate(g.completions) if c.text in rows]) for g in groups)
    return Groups.of(g for g in kept if len(g) >= LEAST)


def clustered(groups: Groups, rows: dict[str, FloatArray], threshold: float) -> Groups:
    """Groups with the clusters of their embeddings."""
    found = ([c.text for c in g.completions] for g in groups)
    labels = (np.array(cluster_complete_linkage(texts, rows, threshold)) for texts in found)
    return Groups.of(replace(g, clusters=k) for g, k in zip(groups, labels, strict=True))


def largest(group: Group) -> list[int]:
    """Members of the largest cluster; of two as large the first, whatever they are worth."""
    return largest_cluster(replace(group, scores=None), "contrast")


def longest(group: Group) -> list[int]:
    """As many of the longest completions as the largest cluster has members."""
    order = np.argsort([-len(c.text) for c in group.completions], kind="stable")
    return order[: len(largest(group))].tolist()


def contrast(group: Group, inside: list[int]) -> tuple[float, float] | None:
    """Mean win_prob, and mean length in words, inside minus outside.

    None where nothing is outside, or where no two completions agree.
    """
    outside = sorted(set(range(len(group))) - set(inside))
    if len(inside) < 2 or not outside or group.scores is None:
        return None
    words = np.array([len(c.text.split()) for c in group.completions])
    gaps = [float(x[inside].mean() - x[outside].mean()) for x in (group.scores, words)]
    return gaps[0], gaps[1]


def chance(group: Group, size: int) -> float:
    """How often as many members, drawn at random, win. Not a half: win_prob is skewed."""
    assert group.scores is not None
    rng = Seed(0).at("deal", group.id).rng()
    dealt = np.stack([rng.permutation(group.scores) for _ in range(DEALS)])
    gap = dealt[:, :size].mean(axis=1) - dealt[:, size:].mean(axis=1)
    return float((1 + np.sign(np.round(gap, 12))).mean() / 2)


def agreement(groups: Groups, thresholds: Iterable[float]) -> dict[str, Any]:
    """For several thresholds: how often the largest cluster is the better one, beside controls."""
    rows = embed_texts(sentence_encoder(), (c.text for g in groups for c in g.completions))
    kept = fitting(groups, rows)
    lines = []
    for threshold in thresholds:
        those = clustered(kept, rows, threshold)
        sure = float(np.mean([cluster_share(g) >= 0.5 for g in those]))
        for name, which in (("largest cluster", largest), ("longest", longest)):
            line = compared(those, which)
            lines.append({"cosine": threshold, "who": name, "confident": sure, **line})
            print(lines[-1], flush=True)
    return {"groups": len(groups), "kept": len(kept), "texts": len(rows), "rows": lines}


def compared(groups: Groups, which: Callable[[Group], list[int]]) -> dict[str, Any]:
    """Estimates over the groups in which some completions agree and others do not."""
    found = [(g, c, len(who)) for g in groups if (c := contrast(g, who := which(g))) is not None]
    gaps, words = zip(*(c for _, c, _ in found), strict=True)
    wins = (1 + np.sign(gaps)) / 2
    luck = np.array([chance(g, size) for g, _, size in found])
    return {
        "compared": len(found),
        "wins": rate_by_prompt(wins, [g.id for g, _, _ in found]).as_dict(),
        "chance": float(luck.mean()),
        "over": mean_of(wins - luck).as_dict(),
        "gap": mean_of(gaps).as_dict(),
        "words": mean_of(words).as_dict(),
    }


def short(data: Path, out: Path, count: int) -> Path:
    """Write the shortest graded completions of some groups, for a model of 512 tokens.

    Two completions are compared by win_prob, as AlpacaEval's judge graded each against the
    reference; equal grades are ties.
    """
    out.mkdir(parents=True, exist_ok=True)
    groups = [
        g for g in read_data(data).groups if len(g.prompt.text) < 200 and g.scores is not None
    ]
    few: list[Group] = []
    for group in groups:
        kept = [k for k, c in enumerate(group.completions) if len(c.text) < 400]
        if len(kept) >= 2:
            few.append(replace(group.keep(kept[:4]), preferences=()))
    Groups.of(rank_pairs("all")(few[:count], Seed(0))).write(out / "short.parquet")
    return out / "short.parquet"


def pipeline(data: Path, model: Path, out: Path, count: int) -> dict[str, Any]:
    """Run the recipe by the command line, and return its table of policies."""
    words = ["run", "rlp", f"--model={model}", f"--data={short(data, out, count)}"]
    code = cli.main([*words, f"--out={out}/run", *SMALL])
    if code:
        raise SystemExit(code)
    table = read_results(out / "run")
    keys = ("policies", "reward", "prompts", "judge", "opponent")
    made = {
        r.name: len(r.load())
        for r in read_records(out / "run")
        if r.name in ("samples", "pairs-spg")
    }
    kept = {"prompts": made["pairs-spg"], "of": made["samples"]}
    return {"settings": SMALL, "synthetic": kept, **{k: table[k] for k in keys if k in table}}


def main(words: list[str] | None = None) -> int:
    """Measure agreement, run the recipe, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--runs", type=Path, default=Path("runs/rlp-text"))
    parser.add_argument("--groups", type=int, default=60, help="that the recipe runs on")
    parser.add_argument("--limit", type=int, help="measure agreement on the first groups only")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.7, 0.8, 0.9])
    parser.add_argument("--page", action="store_true", help="only the page, from the JSON")
    asked = parser.parse_args(words)
    file = asked.out / f"{NAME}.json"
    if not asked.page:
        if asked.data is None or asked.model is None:
            parser.error("give --data and --model, or --page")
        found = measured_today() | {
            "commit": code_commit(),
            "data": asked.data.name,
            "model": asked.model.name,
        }
        found["pipeline"] = pipeline(asked.data, asked.model, asked.runs, asked.groups)
        found["agreement"] = agreement(
            read_data(asked.data).groups[: asked.limit], asked.thresholds
        )
        asked.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    found = json.loads(file.read_text(encoding="utf-8"))
    file.with_suffix(".md").write_text(page(found), encoding="utf-8")
    print(file.with_suffix(".md"))
    return 0


# --- the page -------------------------------------------------------------------------------------


def page(found: Mapping[str, Any]) -> str:
    """The page, from the JSON alone."""
    told = found["agreement"]
    parts = [
        "# RLP on text that this project did not write",
        f"Generated by `python experiments/{NAME.replace('-', '_')}.py` from "
        f"[{NAME}.json]({NAME}.json); the question is put in "
        "[experiments/rlp.md](../../experiments/rlp.md).",
        *not_again(found),
        "## Does the largest cluster win?",
        f"AlpacaEval, {told['groups']:,} prompts with 16 systems each, graded by GPT-4-turbo "
        f"against one reference (win_prob); {told['kept']:,} of them have at least {LEAST} "
        f"completions that the sentence encoder reads whole. Compared are the groups in which the "
        "largest cluster has two members or more and leaves some out. *Wins*: its mean win_prob "
        f"is above that of the rest. *Chance*: as many completions drawn at random, {DEALS} times "
        "a prompt; it is no half, because few systems have a high win_prob. Of two clusters as "
        "large the first counts. *Longest*: as many of the longest completions. Intervals are "
        "95 %, over prompts.",
        _agreement(told["rows"]),
        "## The recipe, once",
        "RLP-SPG by embeddings on the story model, at the sizes that the JSON holds: that the "
        "pipeline runs on foreign text from end to end is what it shows. Nobody should read "
        "quality into a model of 260 thousand parameters.",
        _pipeline(found["pipeline"]),
    ]
    return "\n\n".join(parts) + "\n"


def _agreement(rows: Iterable[Mapping[str, Any]]) -> str:
    head = (
        "cosine at least", "who", "groups compared", "wins", "chance", "wins over chance",
        "win_prob, difference",
        "words, difference", "groups with confidence of a half",
    )  # fmt: skip
    lines = [
        [
            f"{r['cosine']:.2f}", r["who"], str(r["compared"]), _spelled(r["wins"], ".3f"),
            f"{r['chance']:.3f}", _spelled(r["over"], "+.3f"),
            _spelled(r["gap"], "+.3f"), _spelled(r["words"], "+.1f"), f"{r['confident']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    return markdown(head, lines)


def _pipeline(found: Mapping[str, Any]) -> str:
    synthetic = found["synthetic"]
    head = ["policy", f"proxy win over {found.get('opponent', 'SFT')}", "KL, nats", "tokens"]
    key = f"win vs {found.get('opponent')}"
    lines = [
        [p["policy"], _spelled(p.get("proxy_win") or p.get(key), ".3f"),
         _mean(p.get("kl")), _mean(p.get("length"))]
        for p in found["policies"]
    ]  # fmt: skip
    kept = f"SPG kept {synthetic['prompts']} of {synthetic['of']} prompts."
    return f"{kept}\n\n{markdown(head, lines)}"


def _mean(x: Mapping[str, Any] | None) -> str:
    return "-" if not x else f"{x['mean']:.2f}"


def _spelled(x: Mapping[str, Any] | None, form: str) -> str:
    if not x:
        return "-"
    return with_interval(x, form)


if __name__ == "__main__":
    sys.exit(main())

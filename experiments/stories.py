"""PPO on a real model: stories become happier, and stay English.

    python experiments/stories.py [--model ../shared/models/stories260k] [--run runs/stories]
                                  [--out docs/gallery] [--page]

The model is a Llama of 260,000 parameters that writes small children's stories. The reward is a
program: the share of sentences with a happy word, less repeated word pairs. Nothing in it asks for
English; the KL to the model as it was does. Numbers go to OUT/stories.json, and the page and the
curve are made from them; `--page` makes them again without a run. A killed run goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pages import with_interval
from tandem.data.groups import Groups
from tandem.data.record import Group, Prompt
from tandem.engines import Sampling
from tandem.evaluation.reward_hacking import draw_panels, read_curve
from tandem.judges import Judge
from tandem.machine import Machine
from tandem.methods import ppo
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.environment import code_commit
from tandem.runs.run import Run
from tandem.stages.encoding import encode
from tandem.stages.judging import judge, logprobs
from tandem.stages.sampling import sample
from tandem.statistics import mean_of, paired_difference
from tandem.training.optim import Optim
from tandem.training.validation import Validation

HAPPY = frozenset(
    "happy happily glad joy joyful smile smiled smiling smiles laugh laughed laughing love loved "
    "loves fun hug hugged hugs proud excited kind nice great wonderful best friend friends".split()
)
REPEATED = 2.0
"""What repeating every pair of words would cost, in shares of happy sentences."""
OPENINGS = (
    "Once upon a time, there was a {} named {}. {}",
    "One day, a {} named {} went to the park. {}",
    "{} {} was playing outside. {}",
    "There was a {} called {}. {}",
)
WHO = (("little girl", "She"), ("little boy", "He"), ("big dog", "He"), ("small cat", "She"))
NAMES = "Lily Tom Mia Ben Sue Max Anna Sam Lucy Tim".split()
HELD_OUT = ("Sue", "Tim")
HOW = Sampling(max_tokens=48)
SHOWN = 6
CFG = ppo.PPOConfig(
    prompts=64, rounds=30, inner=2, minibatch=16, beta=0.1, lam=0.95, whiten_rewards=False,
    optim=Optim(lr=3e-4, schedule="linear", warmup=0.0, eps=1e-5),
)  # fmt: skip


def words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return re.findall(r"[a-z']+", text.lower())


def happy(text: str) -> float:
    """Share of the sentences that hold a happy word; an unfinished one counts as a sentence."""
    sentences = [x for part in re.split(r"[.!?]", text) if (x := words(part))]
    return sum(not HAPPY.isdisjoint(x) for x in sentences) / max(1, len(sentences))


def repetition(text: str) -> float:
    """Share of pairs of neighbouring words that stood there before."""
    pairs = list(itertools.pairwise(words(text)))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


@dataclass(frozen=True)
class Cheer:
    """The gold reward: share of happy sentences, less `REPEATED` times the repetition."""

    name: str = "cheer"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`."""
        for g in groups:
            worth = [happy(c.text) - REPEATED * repetition(c.text) for c in g.completions]
            yield replace(g, scores=np.array(worth, np.float64))


@dataclass(frozen=True)
class English:
    """Share of an answer's words that are known words.

    Attributes:
        known: words that the model wrote several times, before it was trained.
    """

    known: tuple[str, ...]
    name: str = "english"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`."""
        known = frozenset(self.known)
        for g in groups:
            texts = [words(c.text) for c in g.completions]
            share = [float(np.mean([w in known for w in x])) if x else 0.0 for x in texts]
            yield replace(g, scores=np.array(share, np.float64))


def prompts(names: Iterable[str]) -> Groups:
    """Openings of stories, one a combination."""
    rows = itertools.product(OPENINGS, WHO, names)
    texts = [opening.format(who, name, she) for opening, (who, she), name in rows]
    return Groups.of(Group(Prompt(f"story-{t}", t[0].upper() + t[1:])) for t in texts)


def do(model: Path, path: Path, machine: Machine, cfg: ppo.PPOConfig = CFG) -> dict[str, Any]:
    """Do the stages that are left, and return what the page shows."""
    base = Checkpoint(model, model.name)
    with Run(path, 0, machine=machine) as run:
        room = HOW.max_tokens
        train = [n for n in NAMES if n not in HELD_OUT]
        x = run("prompts", encode, prompts(train), base, room=room)
        exam = run("exam", encode, prompts(HELD_OUT), base, room=room)
        pool = run("pool", sample, base, x, n=8, sampling=HOW)
        english = English(vocabulary(pool))
        validation = Validation(exam, (("english", english),), every=2)
        climbed = run("climb", ppo.fit, base, x, Cheer(), cfg, sampling=HOW, validation=validation)
        before = run("before", sample, base, exam, n=8, sampling=HOW)
        after = run("after", sample, climbed, exam, n=8, sampling=HOW)
        columns = {
            name: run(f"measured-{name}", measured, groups, english, policy, base)
            for name, groups, policy in (("before", before, base), ("after", after, climbed))
        }
        points = read_curve(path / "events.jsonl")
    return {
        "model": model.name,
        "config": asdict(cfg),
        "commit": code_commit(),
        "curve": [{k: round(v, 5) for k, v in p.items() if k != "time"} for p in points],
        "table": _table(columns),
        "samples": [
            _shown(a, b) for a, b in list(zip(before, after, strict=True))[:: len(exam) // SHOWN]
        ],
    }


def vocabulary(pool: Iterable[Group], least: int = 3) -> tuple[str, ...]:
    """Words that occur at least so often in the answers."""
    count = Counter(w for g in pool for c in g.completions for w in words(c.text))
    return tuple(sorted(w for w, k in count.items() if k >= least))


def measured(
    groups: Groups, english: Judge, policy: Checkpoint, base: Checkpoint, *, machine: Machine
) -> dict[str, list[float]]:
    """Column -> [P] means over the answers to each prompt.

    `surprise` is -log pi_base a token, `kl` log pi - log pi_base of whole answers.
    """
    found: dict[str, list[float]] = {}

    def add(name: str, values: Iterable[Iterable[float]]) -> None:
        found[name] = [float(np.mean(list(row))) for row in values]

    add("reward", (g.scores for g in judge(groups, Cheer(), machine=machine)))  # type: ignore[misc]
    add("english", (g.scores for g in judge(groups, english, machine=machine)))  # type: ignore[misc]
    add("happy sentences", ([happy(c.text) for c in g.completions] for g in groups))
    add("repetition", ([repetition(c.text) for c in g.completions] for g in groups))
    add("length", ([len(c.tokens) for c in g.completions] for g in groups))
    theirs = list(logprobs(base, groups, machine=machine))
    mine = logprobs(policy, groups, machine=machine)
    add("surprise", ([-c.logp.mean() for c in g.completions] for g in theirs))  # type: ignore[union-attr]
    pairs = (
        zip(a.completions, b.completions, strict=True) for a, b in zip(mine, theirs, strict=True)
    )
    add("kl", ([float(a.logp.sum() - b.logp.sum()) for a, b in row] for row in pairs))
    return found


def _table(columns: Mapping[str, Mapping[str, list[float]]]) -> list[dict[str, Any]]:
    rows = []
    for name, before in columns["before"].items():
        after = columns["after"][name]
        difference = paired_difference(after, before)
        rows.append(
            {
                "what": name,
                "before": mean_of(before).as_dict(),
                "after": mean_of(after).as_dict(),
                "difference": difference.as_dict() | {"resolved": difference.resolved},
            }
        )
    return rows


def _shown(before: Group, after: Group) -> dict[str, str]:
    first = {"before": before.completions[0].text, "after": after.completions[0].text}
    return {"prompt": before.prompt.text, **first}


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Reward, KL and English against episodes, on prompts that are not trained on."""
    points, per = found["curve"], found["config"]["prompts"]
    x = [p["round"] * per for p in points]
    with draw_panels(path, 10.0, 3.2, panels=3) as axes:
        for each, (name, title) in zip(
            axes,
            (("proxy", "reward"), ("kl", "KL to the start, nats"), ("english", "known words")),
            strict=True,
        ):
            each.plot(x, [p[name] for p in points], "o-", ms=3)
            each.set_title(title, fontsize="medium")
            each.set_xlabel("episodes")
        axes[2].set_ylim(0, 1.02)


def page(found: Mapping[str, Any]) -> str:
    """The page, from the JSON alone."""
    cfg, beta = found["config"], found["config"]["beta"]
    episodes = cfg["prompts"] * cfg["rounds"]
    parts = [
        "# PPO on a real model: happier stories",
        "Generated by `python experiments/stories.py` from [stories.json](stories.json).",
        f"`{found['model']}`, a Llama of 260,000 parameters; {episodes:,} episodes of at most "
        f"{HOW.max_tokens} tokens, KL coefficient {beta}. The reward is the share of sentences "
        "with a happy word, less repeated word pairs; that the stories stay English is the KL's "
        "work. *english* is the share of words that the model wrote three times or more before; "
        "*surprise* is -log p a token under the model as it was. Prompts with two names were kept "
        "out of training. One seed: the intervals are over prompts.",
        "![reward, KL and known words against episodes](stories.svg)",
        _markdown(found["table"]),
        "## The same openings, before and after",
        *(_told(s) for s in found["samples"]),
    ]
    return "\n\n".join(parts) + "\n"


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| | before | after | difference |", "| --- | --- | --- | --- |"]
    for row in rows:
        d = row["difference"]
        word = "resolved" if d["resolved"] else "not resolved"
        span = f"{with_interval(d, '+.3f')} {word}"
        what, before, after = row["what"], row["before"]["mean"], row["after"]["mean"]
        lines.append(f"| {what} | {before:.3f} | {after:.3f} | {span} |")
    return "\n".join(lines)


def _told(sample: Mapping[str, str]) -> str:
    lines = [f"**{sample['prompt']}**"]
    lines += [f"- *{k}*: {' '.join(sample[k].split())}" for k in ("before", "after")]
    return "\n".join([lines[0], "", *lines[1:]])


def main(arguments: list[str] | None = None) -> int:
    """Run what is left, and write JSON, curve and page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("../shared/models/stories260k"))
    parser.add_argument("--run", type=Path, default=Path("runs/stories"))
    parser.add_argument("--out", type=Path, default=Path("docs/gallery"))
    parser.add_argument("--page", action="store_true", help="only the page, from the JSON")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    file = asked.out / "stories.json"
    if not asked.page:
        found = do(asked.model, asked.run, Machine())
        asked.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    found = json.loads(file.read_text(encoding="utf-8"))
    draw(found, file.with_suffix(".svg"))
    file.with_suffix(".md").write_text(page(found), encoding="utf-8")
    print(file.with_suffix(".md"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`tandem label refit FOLDER`: fit the reward on the votes so far; say what to ask next.

A process of its own, because it loads torch and the labelling server must not. Three rewards are
fitted, each on the groups drawn with replacement, so that where they differ can be seen.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tandem.cli.label import check_extra
from tandem.cli.settings import make_parser, parse_words
from tandem.errors import ConfigError, DataError, TandemError

if TYPE_CHECKING:
    from tandem.data.groups import Groups
    from tandem.labelling.export import Collected

MEMBERS = 3
FEWEST = 8


def refit_command(words: Sequence[str]) -> int:
    """Fit the reward on the votes so far, and put the open items in order."""
    check_extra()
    from tandem.labelling.assignment import Project, load_project
    from tandem.labelling.refit import begin_refit, end_refit
    from tandem.labelling.setup import find_database

    parser = make_parser("label refit", "Fit the reward on the votes so far; order what is open.")
    parser.add_argument("folder", type=str, help="the project's folder")
    parser.add_argument("--database", type=str, default="", help="postgresql://..., if not SQLite")
    parser.add_argument("--model", type=str, default="", help="instead of the project's")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the votes")
    parser.add_argument("--lr", type=float, default=3e-4, help="learning rate")
    options = parse_words(parser, words)
    database = find_database(options.folder, options.database)
    with database.write() as connection:
        project = load_project(connection) or Project()
        number = begin_refit(connection)
    try:
        model = options.model or project.model
        if not model:
            raise ConfigError(
                "the project has no model",
                "the reward starts from a language model",
                "give --model FOLDER, here or to `tandem label serve`",
            )
        result = fit_and_order(database, Path(options.folder), Path(model), number, options)
    except TandemError as error:
        with database.write() as connection:
            end_refit(connection, number, "failed", {"error": error.what})
        raise
    with database.write() as connection:
        end_refit(connection, number, "done", result)
    print(_sentence(result))
    return 0


def fit_and_order(
    database: Any, folder: Path, model: Path, number: int, options: Any
) -> dict[str, Any]:
    """Fit the ensemble, measure it on held-out votes, and save the order of open items."""
    from tandem.labelling.acquisition import pool_accuracy, rate_item, save_priorities
    from tandem.labelling.data_access import write_judged
    from tandem.labelling.export import collect_votes

    with database.read() as connection:
        found = collect_votes(connection)
        items = load_items(connection)
    train = [j for j in found.judged if found.split[j.answered.id] == "train"]
    if len(train) < FEWEST:
        raise DataError(
            f"{len(train)} prompts were judged outside the held-out part",
            f"a reward needs {FEWEST} at least",
            "label some more",
        )
    place = folder / "refits" / f"{number:04d}"
    shutil.rmtree(place, ignore_errors=True)
    write_judged(train, place / "train.parquet")
    scores = fit_members(place, model, items, options)
    with database.write() as connection:
        rated = {row["id"]: rate_item([s[row["id"]] for s in scores]) for row in items}
        save_priorities(connection, rated)
    mean = {row["id"]: np.mean([s[row["id"]] for s in scores], axis=0) for row in items}
    return {
        **pool_accuracy(mean, held_out_labels(found, items)),
        "train_prompts": len(train),
        "labels": found.labels,
        "rewards": [str(place / f"run-{k}") for k in range(len(scores))],
    }


def fit_members(
    place: Path, model: Path, items: Sequence[Mapping[str, Any]], options: Any
) -> list[dict[int, list[float]]]:
    """Return each member's scores of every item's answers."""
    from tandem.data.groups import Groups
    from tandem.judges.reward_model import RewardModel
    from tandem.methods import reward
    from tandem.rng import Seed
    from tandem.runs.checkpoint import Checkpoint
    from tandem.runs.run import Run
    from tandem.stages.encoding import encode
    from tandem.stages.judging import judge
    from tandem.training.optim import Optim

    judged = Groups.read(place / "train.parquet")
    asked = _groups_of(items)
    base = Checkpoint(model, model.name)
    cfg = replace(
        reward.RewardConfig(), epochs=options.epochs, head="zero", optim=Optim(lr=options.lr)
    )
    out = []
    for k in range(MEMBERS):
        drawn = judged if k == 0 else judged.take(_with_replacement(len(judged), Seed(0).at(k)))
        with Run(place / f"run-{k}", seed=k) as run:
            D = run("votes", encode, drawn, base)
            fitted = reward.recipe(run, base, D, cfg)
            scored = run("scores", judge, asked, RewardModel(fitted, name=f"member {k}"))
        found = {}
        for group in scored:
            assert group.scores is not None
            found[int(group.id)] = [float(s) for s in group.scores]
        out.append(found)
    return out


def _with_replacement(n: int, seed: Any) -> list[int]:
    return [int(k) for k in seed.rng().integers(0, n, n)]


def load_items(connection: Any) -> list[dict[str, Any]]:
    """Return every item with its question, whether it is open or not."""
    import sqlalchemy as sa

    from tandem.labelling.schema import item

    columns = (item.c.id, item.c.question, item.c.members, item.c.group_id, item.c.split)
    return [dict(r) for r in connection.execute(sa.select(*columns)).mappings()]


def _groups_of(items: Sequence[Mapping[str, Any]]) -> Groups:
    """Return the items as groups of which each is named by its item's number."""
    from tandem.data.groups import Groups
    from tandem.data.record import Completion, Group, Prompt

    def group(row: Mapping[str, Any]) -> Group:
        asked = row["question"]
        messages = asked["messages"]
        prompt = Prompt(
            str(row["id"]), asked["text"], None if messages is None else tuple(messages)
        )
        columns = zip(asked["answers"], asked["turns"], strict=True)
        answers = tuple(Completion(t, turns=None if u is None else tuple(u)) for t, u in columns)
        return Group(prompt, answers)

    return Groups.of(group(row) for row in items)


def held_out_labels(
    found: Collected, items: Sequence[Mapping[str, Any]]
) -> dict[tuple[int, int, int], float]:
    """Return what people said on held-out prompts, by unit."""
    by_pair = {}
    for row in items:
        if row["split"] == "held_out":
            for i, a in enumerate(row["members"]):
                for j, b in enumerate(row["members"]):
                    by_pair[row["group_id"], a, b] = (row["id"], i, j)
    return {
        by_pair[j.answered.id, a, b]: p
        for j in found.judged
        for a, b, p, _ in j.pairs
        if (j.answered.id, a, b) in by_pair
    }


def _sentence(result: Mapping[str, Any]) -> str:
    if result["accuracy"] is None:
        return f"fitted on {result['train_prompts']} prompts; no held-out vote is decided yet"
    return (
        f"fitted on {result['train_prompts']} prompts; right on {result['accuracy']:.0%} "
        f"[{result['low']:.0%}, {result['high']:.0%}] of {result['n']} held-out votes"
    )


def sample_command(words: Sequence[str]) -> int:
    """Draw answers of a policy, to be judged by people."""
    parser = make_parser("label sample", "Draw answers of a policy, for people to judge.")
    parser.add_argument("data", type=str, help="prompts, in any known format")
    parser.add_argument(
        "--model", type=str, default="", help="the policy: a folder, a run, a hub id"
    )
    parser.add_argument("--out", type=str, default="", help="the Parquet file to write")
    parser.add_argument("--n", type=int, default=2, help="answers to each prompt, 2 to 9")
    parser.add_argument("--max_tokens", type=int, default=256, help="longest answer in tokens")
    parser.add_argument("--limit", type=int, default=0, help="read only this many prompts")
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    options = parse_words(parser, words)
    for name in ("model", "out"):
        if not options[name]:
            raise ConfigError(f"--{name} is missing", "it is needed", f"give --{name} PATH")
    if not 2 <= options.n <= 9:
        raise ConfigError(f"--n {options.n}", "people compare 2 to 9 answers", "give 2 to 9")
    out = Path(options.out)
    if out.suffix != ".parquet":
        raise ConfigError(f"--out {out}", "groups are kept as Parquet", "name it *.parquet")

    from tandem.data import formats
    from tandem.engines import Sampling
    from tandem.models.model_finder import find_model
    from tandem.runs.run import Run
    from tandem.stages.encoding import encode
    from tandem.stages.sampling import sample as sample_policy

    policy = find_model(options.model)
    policy.files()
    asked = formats.read_data(options.data, limit=options.limit or None).groups.prompts()
    how = Sampling(max_tokens=options.max_tokens)
    with Run(out.with_suffix(".run"), seed=options.seed) as run:
        prompts = run("prompts", encode, asked, policy, room=options.max_tokens)
        drawn = run("answers", sample_policy, policy, prompts, n=options.n, sampling=how)
    drawn.write(out)
    print(f"{len(drawn)} prompts with {options.n} answers: {out}")
    print(f"next: tandem label serve {out} --out labels/first")
    return 0

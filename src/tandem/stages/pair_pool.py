"""A pool of answers as a pool of pairs: features and predictions in one packed pass a model.

    questions = run("questions", select_pairs, answers, (r_phi,), 200, "d_optimal", uniform=0.1)

Prompts are encoded once for all of their answers, and the last layer is read at each answer's last
token; the reward's own score comes out of the same pass.

Shapes: N pairs, d features, M rewards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import DataError
from tandem.machine import Machine
from tandem.models import loading
from tandem.models.forward import forward_groups
from tandem.models.opening import open_policy, open_scalar
from tandem.models.tokenise import tokenise
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed
from tandem.runs.atomic_files import read_json
from tandem.runs.checkpoint import Checkpoint
from tandem.statistics.numerics import Floats
from tandem.statistics.pair_selection import ChosenPairs, PairPool, PairRule, choose_pairs

SOURCE = "source"
"""The column of a question's `meta` that says how it was chosen."""
MOST_FEATURES = 64
"""Directions that are kept of a model's last layer: those in which the pool's pairs differ most."""


@dataclass(frozen=True, eq=False)
class ReadPool:
    """Pairs of a pool of answers, and where they come from.

    Attributes:
        groups: the prompts with their answers.
        places: [N] (group, first answer, second answer).
        pairs: their features and predicted gaps.
    """

    groups: Groups
    places: list[tuple[int, int, int]]
    pairs: PairPool

    def question(self, place: int) -> Group:
        """Return a pair as a question of two answers, under a name of its own."""
        g, i, j = self.places[place]
        group = self.groups[g]
        pair = replace(group, scores=None, preferences=(), clusters=None).keep([i, j])
        name = group.id if len(group) == 2 else f"{group.id}/{i}-{j}"
        return replace(pair, prompt=replace(group.prompt, id=name))


def answer_pairs_of(groups: Groups) -> Iterator[tuple[int, int, int]]:
    """Yield every two different answers to one prompt, by place."""
    for g, group in enumerate(groups):
        for i, j in itertools.combinations(range(len(group)), 2):
            if group.completions[i].text != group.completions[j].text:
                yield g, i, j


def read_pool(groups: Groups, models: Sequence[Checkpoint], machine: Machine) -> ReadPool:
    """Read a pool of answers with each model; the first one's last layer gives the features.

    Args:
        groups: prompts with two or more answers each.
        models: reward models, or one language model, which predicts no gap.
        machine: where they run.

    Raises:
        DataError: no prompt has two different answers.
    """
    places = list(answer_pairs_of(groups))
    if not places:
        raise DataError(
            f"none of {len(groups)} prompts has two different answers",
            "a question is which of two answers is better",
            "draw answers first: tandem label sample PROMPTS --model FOLDER --out pool.parquet",
        )
    features, gaps = None, []
    for model in models:
        seen, scores = read_answers(groups, model, machine)
        if features is None:
            features = np.stack([seen[g][i] - seen[g][j] for g, i, j in places])
        if scores is not None:
            gaps.append(np.array([scores[g][i] - scores[g][j] for g, i, j in places]))
    assert features is not None
    pairs = PairPool(main_directions(features)[0], np.stack(gaps) if gaps else None)
    return ReadPool(groups, places, pairs)


def read_answers(
    groups: Iterable[Group], model: Checkpoint, machine: Machine
) -> tuple[list[Floats], list[Floats] | None]:
    """Read answers with one model: features [n, d] of each group, and scores [n] of a reward."""
    own = tokenise(groups, load_tokenizer(model.path))
    scalar = is_reward_model(model.path)
    trunk = (open_scalar if scalar else open_policy)(model.path, replace(machine, lora=None))
    gain, _ = loading.score_scale(trunk.inner) if scalar else (1.0, 0.0)
    features, scores = list[Floats](), list[Floats]()
    for _, out in forward_groups(trunk, own, machine.tokens, logp=False, features=True):
        assert out.features is not None
        features.append(out.features.astype(np.float64))
        if out.score is not None:
            scores.append(gain * out.score.astype(np.float64))
    return features, scores or None


def is_reward_model(folder: Path) -> bool:
    """True for a folder whose model has a scalar head, as its config says."""
    names = (read_json(folder / "config.json") or {}).get("architectures") or []
    return any("SequenceClassification" in str(name) for name in names)


def main_directions(differences: Floats, most: int = MOST_FEATURES) -> tuple[Floats, Floats]:
    """Keep the directions in which pairs differ most, and scale pairs to length 1 on average.

    Args:
        differences: [N, d].
        most: directions that are kept.

    Returns:
        [N, k] the pairs, and [d, k] the map to the kept directions.
    """
    _, spread, axes = np.linalg.svd(differences, full_matrices=False)
    kept = axes[: min(most, int((spread > 1e-9 * spread[0]).sum()))].T
    scale = np.sqrt(np.mean(np.square(differences @ kept).sum(axis=1)))
    kept = kept / max(float(scale), 1e-12)
    return differences @ kept, kept


def questions_from(pool: ReadPool, chosen: ChosenPairs, rule: str) -> Iterator[Group]:
    """Yield chosen pairs as questions; the column `source` is `uniform`, or the rule that chose."""
    for place, uniform in zip(chosen.pairs.tolist(), chosen.is_uniform.tolist(), strict=True):
        asked = pool.question(place)
        meta = {**asked.prompt.meta, SOURCE: "uniform" if uniform else rule}
        yield replace(asked, prompt=replace(asked.prompt, meta=meta))


def select_pairs(
    groups: Groups,
    models: tuple[Checkpoint, ...],
    keep: int,
    rule: PairRule = "d_optimal",
    uniform: float = 0.1,
    *,
    seed: Seed,
    machine: Machine,
) -> Iterator[Group]:
    """Stage: choose the pairs of a pool of answers that are worth asking about.

    Args:
        groups: prompts with two or more answers each.
        models: reward models, or one language model; the first one's last layer gives features.
        keep: how many pairs.
        rule: how they are chosen.
        uniform: share that is drawn instead, and flagged.

    Raises:
        DataError: no prompt has two different answers.
        ConfigError: the rule needs rewards that are not there.
    """
    pool = read_pool(groups, models, machine)
    rng = seed.rng()
    yield from questions_from(pool, choose_pairs(pool.pairs, keep, rule, uniform, rng), rule)

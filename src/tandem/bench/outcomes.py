"""What every policy did on every prompt: the numbers that all published statistics are made of.

They are kept as one Parquet file beside `results.json`, one row a policy, seed and prompt, so that
any statistic can be made again without sampling. No torch.

    policy   seed  prompt  truth  proxy  length  ...
    DPO      0     p17     2.0    .31    14

A column that a policy has no numbers for is null in its rows.

Shapes: S seeds, P prompts.
"""

# pyarrow ships no types
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tandem.bench.plan import BASE, OPPONENT
from tandem.errors import DataError
from tandem.statistics import Estimate, holm, outcomes_of
from tandem.statistics.crossed import ALPHA

JUDGES = ("truth", "gold_rm", "proxy")
"""Who may decide, the most trusted first."""
OUTCOMES = "outcomes.parquet"
KEYS = ("policy", "seed", "prompt")
Stack = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Columns of numbers of every policy on the same seeds and prompts.

    Attributes:
        seeds: [S] names of the training seeds.
        prompts: [P] ids of the evaluation prompts.
        columns: policy -> column -> [S, P] numbers.
    """

    seeds: list[int]
    prompts: list[str]
    columns: dict[str, Stack]

    @property
    def opponent(self) -> str:
        """The policy that every other is compared with: SFT, or the base where there is none."""
        return OPPONENT if OPPONENT in self.columns else BASE

    @property
    def main(self) -> Stack:
        """The opponent's columns."""
        return self.columns[self.opponent]

    @property
    def judge(self) -> str:
        """Who decides: the most trusted judge that has seen every answer."""
        return next(j for j in JUDGES if j in self.main)


def with_wins(outcomes: Outcomes) -> dict[str, Stack]:
    """Return every policy's columns, with outcomes against the opponent by judges not deciding."""
    main, more = outcomes.main, dict[str, Stack]()
    for name, own in outcomes.columns.items():
        if name == outcomes.opponent:
            more[name] = {k: v for k, v in own.items() if not k.endswith("_win")}
        else:
            others = [j for j in JUDGES if j in own and j in main and j != outcomes.judge]
            more[name] = own | {f"{j}_win": outcomes_of(own[j], main[j]) for j in others}
    return more


def claim_standing(gain: Estimate | None, adjusted_p: float) -> str:
    """Say what became of a claim: `resolved`, `not resolved`, `reversed` or `not measured`."""
    if gain is None:
        return "not measured"
    if not adjusted_p < ALPHA:
        return "not resolved"
    return "resolved" if gain.mean > gain.null else "reversed"


def correct_claims(gains: Sequence[Estimate | None]) -> list[float]:
    """Return Holm's p-values of claims; one that was written down and not measured counts as 1."""
    return holm([math.nan if g is None else g.p_value for g in gains]).tolist()


def write_outcomes(outcomes: Outcomes, path: Path, *, single: bool = False) -> Path:
    """Write outcomes as Parquet, whole or not at all.

    Args:
        outcomes: of every policy.
        path: the file.
        single: numbers in single precision, for a file that is to be small.
    """
    s, p = len(outcomes.seeds), len(outcomes.prompts)
    names = list(dict.fromkeys(k for own in outcomes.columns.values() for k in own))
    parts = [
        pa.table(
            {
                "policy": pa.array([name] * (s * p)).dictionary_encode(),
                "seed": pa.array(np.repeat(np.array(outcomes.seeds, np.int64), p)),
                "prompt": pa.array(outcomes.prompts * s).dictionary_encode(),
                **{k: _column(own.get(k), s * p, single) for k in names},
            }
        )
        for name, own in outcomes.columns.items()
    ]
    part = path.with_suffix(path.suffix + ".part")
    table = pa.concat_tables(parts).unify_dictionaries()
    pq.write_table(table, part, compression="zstd", compression_level=19)
    part.replace(path)
    return path


def _column(x: np.ndarray | None, n: int, single: bool) -> Any:
    if x is None:
        return pa.nulls(n, pa.float32() if single else pa.float64())
    return pa.array(np.asarray(x, np.float32 if single else np.float64).ravel())


def read_outcomes(path: Path) -> Outcomes:
    """Read what `write_outcomes` wrote.

    Raises:
        DataError: the file is no such table, or a policy lacks a seed or a prompt.
    """
    try:
        table = pq.read_table(path).to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read: {error}",
            f"statistics are made again from the {OUTCOMES} that a comparison leaves",
            "give the file beside its results.json",
        ) from error
    if lacking := [k for k in KEYS if k not in table]:
        raise DataError(
            f"{path} has no column {lacking[0]!r}",
            "a row is a policy, a seed and a prompt",
            f"give the {OUTCOMES} of a comparison",
        )
    seeds = list(dict.fromkeys(table["seed"]))
    prompts = list(dict.fromkeys(table["prompt"]))
    return Outcomes(seeds, prompts, _stacks(table, seeds, prompts, path))


def _stacks(
    table: Mapping[str, list[Any]], seeds: list[int], prompts: list[str], path: Path
) -> dict[str, Stack]:
    policy = np.array(table["policy"])
    shape, found = (len(seeds), len(prompts)), dict[str, Stack]()
    for name in dict.fromkeys(table["policy"]):
        rows = np.flatnonzero(policy == name)
        met = [(table["seed"][k], table["prompt"][k]) for k in rows]
        if met != [(s, p) for s in seeds for p in prompts]:
            raise DataError(
                f"{path}: {name!r} has {len(met)} rows that are not every seed with every prompt",
                "policies are compared on the same seeds and prompts",
                "run the comparison's command again; it writes the file anew",
            )
        each = {k: [table[k][r] for r in rows] for k in table if k not in KEYS}
        found[name] = {
            k: np.array(v, np.float64).reshape(shape)
            for k, v in each.items()
            if not any(x is None for x in v)
        }
    if not {OPPONENT, BASE} & found.keys():
        raise DataError(
            f"{path} has no policy {OPPONENT!r}, and no {BASE!r}",
            "every policy is compared with one of them",
            f"give the {OUTCOMES} of a whole comparison",
        )
    return found

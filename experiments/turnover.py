"""From curves of some seeds to numbers: where truth turned over, and what each lever gained.

Rounds are chosen by the held-out reward without seeing the answers they are judged on: the round
that is best on one half of the prompts is judged on the other half, and the reverse.

Shapes: S seeds, R evaluated rounds, P prompts, K values of n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.statistics import (
    Estimate,
    holm,
    mean_of,
    mean_over_seeds,
    over_optimisation,
    paired_difference,
)
from tandem.statistics.best_of import kl_bound

Floats = npt.NDArray[np.float64]
Climb = Sequence[Mapping[str, Any]]
COLUMNS = ("proxy", "single", "held_out", "truth", "kl", "length")
FREE = "free"


def column(climb: Climb, name: str) -> Floats:
    """[R, P] one column of a climb."""
    return np.array([row[name] for row in climb], np.float64)


def chosen(climb: Climb, by: str = "held_out") -> tuple[Floats, list[int]]:
    """Return [P] truth at the chosen round, and the two rounds' places.

    Even prompts choose for odd ones, and odd for even.
    """
    signal, truth = column(climb, by), column(climb, "truth")
    worth, places = np.empty(truth.shape[1]), []
    for half in (0, 1):
        place = int(np.argmax(signal[:, 1 - half :: 2].mean(axis=1)))
        worth[half::2] = truth[place, half::2]
        places.append(place)
    return worth, places


def numbers(
    climbs: Sequence[Mapping[str, Climb]], pools: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Everything the page shows, as JSON: curves, fits, best-of-n and the table.

    Args:
        climbs: for each seed, lever -> rounds -> column -> [P].
        pools: for each seed, choice -> column -> [K, P], and the n's.
    """
    levers = list(climbs[0])
    curves = {name: _curves([seed[name] for seed in climbs]) for name in levers}
    return {
        "curves": curves,
        "fits": {name: turnovers(c["kl"], c["truth"], "rl") for name, c in curves.items()},
        "best_of_n": _best_of_n(pools),
        "table": table(climbs),
    }


def _curves(climbs: Sequence[Climb]) -> dict[str, Any]:
    """Means over prompts: column -> [S][R]; and the rounds, which seeds share."""
    means = {c: [column(x, c).mean(axis=1).round(5).tolist() for x in climbs] for c in COLUMNS}
    return {"round": [row["round"] for row in climbs[0]], **means}


def turnovers(kl: Any, truth: Any, form: Any) -> dict[str, Any]:
    """Fit Gao's form to each seed's truth above its start, and to the mean curve.

    Args:
        kl: [S, R] nats; the first point is the start.
        truth: [S, R].
        form: `rl` or `bon`.

    Returns:
        [S] alpha, beta, peak (of sqrt(KL), None where it never turns over) and height; the peak's
        mean and interval over seeds where all turn over; the mean curve's own fit; and the KL at
        which each seed's truth was highest.
    """
    k, gold = np.maximum(np.asarray(kl), 0), np.asarray(truth)
    gain = gold - gold[:, :1]
    fits = [over_optimisation(a, b, form) for a, b in zip(k, gain, strict=True)]
    whole = over_optimisation(k.mean(axis=0), gain.mean(axis=0), form)
    peaks = np.array([fit.peak for fit in fits])
    across = None
    if len(fits) > 1 and np.isfinite(peaks).all():
        across = mean_over_seeds(peaks).as_dict()
    return {
        "alpha": [fit.alpha for fit in fits],
        "beta": [fit.beta for fit in fits],
        "peak": [_finite(fit.peak) for fit in fits],
        "height": [_finite(fit.height) for fit in fits],
        "peak_over_seeds": across,
        "mean_curve": {
            "alpha": whole.alpha,
            "beta": whole.beta,
            "peak": _finite(whole.peak),
            "height": _finite(whole.height),
        },
        "best_kl": [float(a[b]) for a, b in zip(k, gold.argmax(axis=1), strict=True)],
    }


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _best_of_n(pools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over prompts, [S][K], with the analytic KL; fits; and truth of each n with intervals.

    `n_best` is the n that the single reward's held-out column would choose.
    """
    ns = pools[0]["n"]
    kl = [kl_bound(n) for n in ns]
    found: dict[str, Any] = {"n": ns, "kl": kl}
    first = np.array([np.array(p["single"]["truth"]) for p in pools])
    for name in (k for k in pools[0] if k != "n"):
        x = {c: np.array([p[name][c] for p in pools]) for c in pools[0][name]}
        truth = x["truth"]
        found[name] = {
            **{c: v.mean(axis=-1).round(5).tolist() for c, v in x.items()},
            "fit": turnovers([kl] * len(pools), truth.mean(axis=-1), "bon"),
            "over_one": [
                _told(paired_difference(truth[:, k], first[:, 0])) for k in range(1, len(ns))
            ],
            "over_single": _told(paired_difference(truth[:, -1], first[:, -1]))
            if name != "single"
            else None,
        }
    correct_best_of_n(found)
    return found


def table(climbs: Sequence[Mapping[str, Climb]]) -> list[dict[str, Any]]:
    """One row a lever: truth at the end and at the chosen round, and paired differences.

    `against_free` is the lever's end less the free climb's end; `stopped_against_free` its chosen
    round less the free climb's end; `stopped_against_stopped` its chosen round less the free
    climb's chosen round: what the lever adds to early stopping. Each family of differences is
    corrected by Holm; `resolved` is the corrected answer at 5 %.
    """
    free = [seed[FREE] for seed in climbs]
    end = np.array([column(c, "truth")[-1] for c in free])
    stop = np.array([chosen(c)[0] for c in free])
    rows = [_row("SFT", [c[:1] for c in free], end, stop)]
    rows += [_row(name, [seed[name] for seed in climbs], end, stop) for name in climbs[0]]
    for family in ("against_free", "stopped_against_free", "stopped_against_stopped"):
        _corrected([row[family] for row in rows if row[family] is not None])
    return rows


def correct_best_of_n(found: Mapping[str, Any]) -> None:
    """Write Holm's p-values into a table of best-of-n: a column's n's, and the last n's choices."""
    columns = [row for name, row in found.items() if name not in ("n", "kl")]
    for row in columns:
        _corrected(row["over_one"])
    _corrected([row["over_single"] for row in columns if row["over_single"] is not None])


def _row(name: str, climbs: Sequence[Climb], end: Floats, stop: Floats) -> dict[str, Any]:
    last = np.array([column(c, "truth")[-1] for c in climbs])
    picked = [chosen(c) for c in climbs]
    best = np.array([worth for worth, _ in picked])
    turns = [[c[k]["round"] for k in places] for c, (_, places) in zip(climbs, picked, strict=True)]
    mine = name == FREE
    return {
        "lever": name,
        "kl": _told(mean_of([column(c, "kl")[-1] for c in climbs])),
        "length": _told(mean_of([column(c, "length")[-1] for c in climbs])),
        "held_out": _told(mean_of([column(c, "held_out")[-1] for c in climbs])),
        "end": _told(mean_of(last)),
        "chosen": _told(mean_of(best)),
        "chosen_rounds": turns,
        "against_free": None if mine else _told(paired_difference(last, end)),
        "stopped_against_free": _told(paired_difference(best, end)),
        "stopped_against_stopped": None if mine else _told(paired_difference(best, stop)),
    }


def _told(estimate: Estimate) -> dict[str, Any]:
    return estimate.as_dict() | {"resolved": estimate.resolved}


def _corrected(family: list[dict[str, Any]]) -> None:
    """Write Holm's p-values, and what they resolve, into a family of differences."""
    for row, p in zip(family, holm([row["p_value"] for row in family]), strict=True):
        row["holm_p"] = float(p)
        row["resolved"] = bool(row["resolved"] and p < 0.05)

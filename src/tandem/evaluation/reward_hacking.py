"""Reward hacking: how the optimised reward and others diverge over a policy's validation curve.

A proxy rises because it is optimised; whether anything else rose is what the other columns of the
curve say. See docs/theory/over_optimisation.md; Gao et al. 2022, arXiv:2210.10760.

    points = read_curve(run / "events.jsonl")
    print(diagnose_curve(points, by_prompt=read_curve_by_prompt(run / "events.jsonl")))
    plot_curves({"PPO": points}, Path("curve.svg"))

A signal can show hacking only as far as it is independent of the proxy: one that makes the proxy's
mistakes rises with them. `agreement_with_proxy` says how far that is so.

Shapes: M points of a curve, P prompts.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tandem.errors import ConfigError, DataError
from tandem.runs.events import read_events
from tandem.statistics import (
    OverOptimisation,
    best_index,
    is_out_of_patience,
    over_optimisation,
)
from tandem.statistics.numerics import Floats

Point = Mapping[str, float]
SIGNALS = ("truth", "gold_rm", "held_out")
"""What was not optimised. The truth is believed first; of the learned ones, where their agreement
with the proxy was measured, the most independent, and else in this order: other data and another
model, then other data alone."""
TRUTH = "truth"
SHARED = 0.9
"""Agreement with the proxy from which a signal is said to share its errors."""
RISING, WINDOW = 0.05, 3
TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Trend:
    """How a column moved from the point where the signal was best to the end of the curve."""

    at_best: float
    at_end: float

    @property
    def change(self) -> float:
        """End minus best."""
        return self.at_end - self.at_best


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the detectors say of one curve; see docs/theory/over_optimisation.md#detectors.

    Attributes:
        signal: the column that was not optimised and is believed: truth before held-out rewards.
        stop: round at which the signal was best: where to stop, and what to export.
        gap: proxy's gain over the start minus the signal's, in the start's units; 0 without
            hacking where both have one scale.
        proxy: the optimised reward from the signal's best point on.
        signals: every column that was not optimised, from that point on.
        diverged: the proxy rose after that point while the signal fell.
        length_slope: tokens a round, least squares over the curve.
        kl_slope: nats a round, least squares over the last three points.
        agreement: of every signal its agreement with the proxy, see `agreement_with_proxy`; empty
            where it was not measured.
        fit: the signal over its start against sqrt(KL), or None with fewer than two points away
            from the start; its `peak` and `height` say where it turns over.
    """

    signal: str
    stop: float
    gap: float
    proxy: Trend
    signals: Mapping[str, Trend]
    diverged: bool
    length_slope: float
    kl_slope: float
    fit: OverOptimisation | None
    agreement: Mapping[str, float] = field(default_factory=dict[str, float])

    def __str__(self) -> str:
        main = self.signals[self.signal]
        lines = [
            f"best {self.signal} {main.at_best:.3f} after round {self.stop:g}; "
            f"{main.at_end:.3f} at the end",
            f"proxy {self.proxy.at_best:.3f} there, {self.proxy.at_end:.3f} at the end; "
            f"gap {self.gap:.3f}",
            f"length {self.length_slope:+.3f} tokens a round, KL {self.kl_slope:+.3f} nats a round",
        ]
        if self.fit is not None:
            lines.append(
                f"fit over sqrt(KL): alpha {self.fit.alpha:.3f}, beta {self.fit.beta:.3f}, "
                f"peak at KL {self.fit.peak**2:.3g}, height {self.fit.height:.3f}"
            )
        if self.agreement:
            each = ", ".join(f"{name} {r:.2f}" for name, r in self.agreement.items())
            lines.append(f"agreement with the proxy about single answers: {each}")
        if self.agreement.get(self.signal, 0.0) >= SHARED:
            lines.append(
                f"{self.signal} shares the proxy's errors: that it did not fall says little"
            )
        if self.diverged:
            lines.append(
                f"hacked: the proxy rose while {self.signal} fell; stop earlier, or raise beta"
            )
        return "\n".join(lines)


def read_curve(events: Path, stage: str | None = None) -> list[dict[str, float]]:
    """Read a validation curve from a run's `events.jsonl`: one point a round, in order.

    A killed run may evaluate a round again; both are the same, and the last is kept.

    Args:
        events: `events.jsonl`.
        stage: the stage whose curve is wanted; needed where several stages were validated.

    Raises:
        DataError: nothing was validated, or several stages were and none is named.
    """
    points = _round_events(events, "watch", stage)
    return [{k: float(v) for k, v in p.items() if isinstance(v, int | float)} for p in points]


def read_curve_by_prompt(events: Path, stage: str | None = None) -> list[dict[str, Floats]]:
    """Read the same curve prompt by prompt: of each round every column as [P] numbers.

    The prompts are those of `Validation`, in its order, the same in every round; so policies that
    were validated on the same prompts can be compared in pairs.

    Raises:
        DataError: as `read_curve`.
    """
    points = _round_events(events, "watched", stage)
    return [
        {k: np.array(v, np.float64) for k, v in p.items() if isinstance(v, list)} for p in points
    ]


def _round_events(events: Path, kind: str, stage: str | None) -> list[dict[str, Any]]:
    """The events of one kind of one stage, one a round, in order of rounds."""
    found: dict[str, dict[float, dict[str, Any]]] = {}
    for event in read_events(events):
        if event["kind"] == kind:
            found.setdefault(str(event.get("stage", "")), {})[float(event["round"])] = event
    if stage is not None:
        found = {name: points for name, points in found.items() if name == stage}
    if len(found) != 1:
        raise DataError(
            f"{events} holds curves of {len(found)} stages: {', '.join(found) or 'none'}",
            "a curve belongs to one training run",
            "name the stage; and give `validation` to the method if nothing was validated",
        )
    (points,) = found.values()
    return [points[turn] for turn in sorted(points)]


def agreement_with_proxy(by_prompt: Sequence[Mapping[str, Floats]]) -> dict[str, float]:
    """Measure how far each signal agrees with the proxy about single answers: a correlation.

    Over the answers to the same prompt in different rounds. The prompt's mean and the round's mean
    are taken off both columns first, so that hard prompts, and a policy that gets better, are no
    agreement. 1 is the proxy over again. A signal that is independent of the proxy and right
    shares with it only what both know of the truth.

    >>> rounds = [{"proxy": np.array([0.0, 2.0]), "held_out": np.array([1.0, 5.0])},
    ...           {"proxy": np.array([2.0, 1.0]), "held_out": np.array([5.0, 3.0])}]
    >>> agreement_with_proxy(rounds)
    {'held_out': 1.0}

    Args:
        by_prompt: of each round every column as [P] numbers, as `read_curve_by_prompt` gives it.

    Returns:
        signal -> correlation; a signal or a proxy that never differs is left out.
    """
    if len(by_prompt) < 2 or any("proxy" not in p for p in by_prompt):
        return {}
    there = [s for s in SIGNALS if all(s in p for p in by_prompt)]
    left = {s: _without_means(by_prompt, s) for s in ("proxy", *there)}
    norms = {s: float(np.sqrt((x**2).sum())) for s, x in left.items()}
    return {
        s: round(float((left[s] * left["proxy"]).sum() / (norms[s] * norms["proxy"])), 6)
        for s in there
        if min(norms[s], norms["proxy"]) > TINY
    }


def _without_means(by_prompt: Sequence[Mapping[str, Floats]], name: str) -> Floats:
    """[M, P] a column without each prompt's and each round's mean."""
    x = np.stack([np.asarray(p[name], np.float64) for p in by_prompt])
    return x - x.mean(axis=0) - x.mean(axis=1, keepdims=True) + x.mean()


def trusted_signals(agreement: Mapping[str, float]) -> list[str]:
    """Return the signals, the most trustworthy first: truth, then the most independent.

    Independence is how little a signal agrees with the proxy. A signal that does not agree at all,
    or says the opposite, knows nothing that the proxy knows, and comes last: noise is independent
    too. Signals whose agreement was not measured keep their order, behind those that have one.
    """

    def key(name: str) -> tuple[int, float, int]:
        r = agreement.get(name)
        rank = 0 if name == TRUTH else 2 if r is None else 1 if r > 0 else 3
        return rank, 0.0 if r is None else abs(r), SIGNALS.index(name)

    return sorted(SIGNALS, key=key)


def diagnose_curve(
    points: Sequence[Point],
    *,
    signal: str | None = None,
    by_prompt: Sequence[Mapping[str, Floats]] = (),
) -> Diagnosis:
    """Apply the detectors to a curve.

    Args:
        points: rounds with `round`, `proxy`, `kl`, `length` and at least one signal.
        signal: the column to believe; by default the first of `trusted_signals`.
        by_prompt: the same rounds prompt by prompt, from which agreement with the proxy is
            measured, `read_curve_by_prompt`; without it signals have a fixed order.

    Raises:
        DataError: fewer than two points, or no signal beside the proxy.
    """
    agreement = agreement_with_proxy(by_prompt)
    chosen = _signal(points, signal, trusted_signals(agreement))
    best = best_index(_column(points, chosen).tolist())
    signals = {name: _trend(points, name, best) for name in _present(points, chosen)}
    proxy = _trend(points, "proxy", best)
    spread = max(float(np.ptp(_column(points, "proxy"))), 1e-12)
    gained = [_column(points, name)[-1] - _column(points, name)[0] for name in ("proxy", chosen)]
    return Diagnosis(
        signal=chosen,
        stop=float(points[best]["round"]),
        gap=float(gained[0] - gained[1]),
        proxy=proxy,
        signals=signals,
        diverged=proxy.change > RISING * spread and signals[chosen].change < 0,
        length_slope=_slope(points, "length"),
        kl_slope=_slope(points[-WINDOW:], "kl"),
        fit=_fit(points, chosen),
        agreement=agreement,
    )


def early_stop(
    points: Sequence[Point], signal: str | None = None, patience: int = 2
) -> float | None:
    """Return the best round where early stopping would have stopped; None where it would not.

    Args:
        points: rounds, as for `diagnose_curve`.
        signal: the column to believe; by default the first of truth, gold_rm, held_out.
        patience: so many points in a row were no better than the best before them.

    Raises:
        DataError: as `diagnose_curve`.
    """
    values = _column(points, _signal(points, signal)).tolist()
    if not is_out_of_patience(values, patience):
        return None
    return float(points[best_index(values)]["round"])


def plot_curves(curves: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Draw proxy and signals, as gains over the start, against sqrt(KL); the same file every time.

    Full lines are what was not optimised, broken ones the proxy; a dot marks each signal's best
    point and a thin line its fit. SVG with text as text, without date, with fixed ids.

    Args:
        curves: name -> points, for example one a method or a beta.
        path: the SVG file.

    Raises:
        DataError: as `diagnose_curve`.
        ConfigError: matplotlib is not installed.
    """
    with draw_panels(path, 6.4, 4.0) as (axes,):
        for k, (name, points) in enumerate(curves.items()):
            _draw(axes, name, points, f"C{k % 10}")
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.set_xlabel("sqrt(KL to the reference), nats")
        axes.set_ylabel("gain over the start")
        axes.legend(frameon=False, fontsize="small")


@contextmanager
def draw_panels(path: Path, width: float, height: float, panels: int = 1) -> Generator[list[Any]]:
    """Give some axes side by side, and write them as an SVG that is the same file every time.

    Text stays text, there is no date, and ids are fixed.

    Args:
        path: the SVG file; its folder is made.
        width: of the whole, in inches; likewise `height`.
        panels: how many axes.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    mpl, Figure = _matplotlib()
    fixed: dict[str, Any] = {"svg.hashsalt": "tandem", "svg.fonttype": "none"}
    with mpl.rc_context(fixed):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = list(figure.subplots(1, panels, squeeze=False)[0])
        yield axes
        for each in axes:
            each.spines[["top", "right"]].set_visible(False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "tandem"})


def _matplotlib() -> tuple[Any, Any]:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            f"a curve cannot be drawn: {error}",
            "curves and reports are drawn by matplotlib",
            "pip install matplotlib",
        ) from error
    return mpl, Figure


def _draw(axes: Any, name: str, points: Sequence[Point], colour: str) -> None:
    signal = _signal(points, None)
    d = _distance(points)
    gain = {c: _column(points, c) - points[0][c] for c in ("proxy", signal)}
    axes.plot(d, gain["proxy"], "--", color=colour, linewidth=1.2, label=f"{name}: proxy")
    axes.plot(d, gain[signal], "-", color=colour, linewidth=1.8, label=f"{name}: {signal}")
    best = int(np.argmax(gain[signal]))
    axes.plot(d[best], gain[signal][best], "o", color=colour)
    if (fit := _fit(points, signal)) is not None:
        far = float(d.max())
        x = np.linspace(max(far / 100, 1e-3), far, 100)
        axes.plot(x, fit.at(x), color=colour, linewidth=0.6, alpha=0.7)


def _signal(points: Sequence[Point], wanted: str | None, order: Sequence[str] = SIGNALS) -> str:
    known = [wanted] if wanted is not None else list(order)
    found = [name for name in known if points and all(name in p for p in points)]
    if len(points) < 2 or not found:
        raise DataError(
            f"a curve of {len(points)} points with the columns "
            f"{', '.join(points[0]) if points else 'none'}",
            "hacking shows as a proxy that leaves what was not optimised: two points or more "
            f"with one of {', '.join(known)}",
            "give `validation` a judge of truth, or a reward model fitted to other data",
        )
    return found[0]


def _present(points: Sequence[Point], chosen: str) -> list[str]:
    return [chosen, *(s for s in SIGNALS if s != chosen and all(s in p for p in points))]


def _column(points: Sequence[Point], name: str) -> Floats:
    return np.array([p[name] for p in points], np.float64)


def _trend(points: Sequence[Point], name: str, best: int) -> Trend:
    return Trend(float(points[best][name]), float(points[-1][name]))


def _slope(points: Sequence[Point], name: str) -> float:
    """Least squares of a column on the round."""
    turn = _column(points, "round")
    off, x = turn - turn.mean(), _column(points, name)
    return float((off * x).sum() / max(float((off**2).sum()), 1e-12))


def _distance(points: Sequence[Point]) -> Floats:
    """[M] sqrt(KL); an estimate below 0 is noise around 0."""
    return np.sqrt(np.maximum(_column(points, "kl"), 0.0))


def _fit(points: Sequence[Point], signal: str) -> OverOptimisation | None:
    kl = _distance(points) ** 2
    if len(np.unique(kl[kl > 0])) < 2:
        return None
    return over_optimisation(kl, _column(points, signal) - points[0][signal], "rl")

"""The drawings of a report; each with a sentence made from its numbers for those who cannot see it.

matplotlib is imported when the first figure is drawn. Policies differ by marker and label as well
as by colour; the proxy is always broken, what was not optimised always a full line.

Shapes: M points of a curve.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.evaluation.reward_hacking import SIGNALS, diagnose_curve
from tandem.report.numbers import spell_decimal, spell_percent, spell_signed
from tandem.report.results_file import trained_policies
from tandem.report.svg import INK, MUTED, PAPER, RULE, SERIES, Sheet, embed_figure
from tandem.report.verdict import open_estimate
from tandem.statistics import OverOptimisation, over_optimisation

MARKERS = "osD^vPX*"
LONGEST_NAME = 22
BON = "best-of-n"
WIDE, SMALL = (4.5, 3.2), (3.5, 2.7)


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing, its caption, and its sentence."""

    name: str
    svg: str
    alt: str
    caption: str
    numbers: Mapping[str, Any]


class Drawer:
    """Draws the figures of one page.

    Args:
        names: the policies, in the order in which they take colours and markers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.sheet = Sheet()
        self._place = {name: k for k, name in enumerate(names)}

    def look(self, name: str) -> tuple[str, str]:
        """Return a policy's colour and marker."""
        k = self._place.setdefault(name, len(self._place))
        return SERIES[k % len(SERIES)], MARKERS[k % len(MARKERS)]

    def frontier(self, results: Mapping[str, Any]) -> Figure | None:
        """Draw what each policy gained for the KL it spent."""
        judge = str(results.get("judge"))
        points = _frontier(results, judge)
        if not points:
            return None
        with _canvas(WIDE) as (figure, axes):
            axes.axhline(0, color=RULE, linewidth=0.8, zorder=0)
            _best_of_n(axes, results.get("bon", []), judge)
            for curve in results.get("curves", []):
                self._trail(axes, curve, judge)
            for point in points:
                self._spot(axes, point)
            _labels(axes, [(p["kl"], p["gain"], p["policy"]) for p in points])
            axes.set_xlabel("KL to the starting policy, nats")
            axes.set_ylabel(drawing_label(f"{judge} gained"))
            axes.set_xlim(left=0)
            told = "; ".join(
                f"{p['policy']} {spell_signed(p['gain'])} at {spell_decimal(p['kl'])} nats"
                for p in points
            )
            alt = f"{judge} gained against KL spent: {told}."
            return Figure(
                "frontier",
                embed_figure(figure, "frontier", alt, self.sheet),
                alt,
                "Large marks are the exported policies with their 95 % intervals, small ones "
                "single seeds, thin lines checkpoints on the prompts watched during training"
                + (", the broken line best-of-n." if results.get("bon") else "."),
                {"points": points},
            )

    def hacking(self, results: Mapping[str, Any]) -> Iterator[Figure]:
        """Draw proxy and gold against sqrt(KL), one small drawing a policy."""
        climbs: dict[tuple[str, str], list[list[Mapping[str, float]]]] = {}
        for curve in results.get("curves", []):
            if len(curve["points"]) > 1:
                place = (curve["policy"], curve.get("stage", ""))
                climbs.setdefault(place, []).append(curve["points"])
        several = Counter(policy for policy, _ in climbs)
        for k, ((policy, stage), curves) in enumerate(climbs.items()):
            title = f"{policy}, {stage}" if several[policy] > 1 else policy
            if found := self._climb(f"climb-{k}", policy, title, curves, "rl"):
                yield found
        bon = [{"kl": 0.0, **p} for p in results.get("bon", [])]
        if len(bon) > 1 and (found := self._climb("climb-bon", BON, BON, [bon], "bon")):
            yield found

    def _climb(
        self,
        place: str,
        name: str,
        title: str,
        curves: Sequence[Sequence[Mapping[str, float]]],
        form: Any,
    ) -> Figure | None:
        signal = next((s for s in SIGNALS if all(s in p for c in curves for p in c)), None)
        if signal is None:
            return None
        mean = average_curves(curves)
        numbers = curve_numbers(mean, signal, form, standard_errors(curves, signal))
        colour, marker = self.look(name)
        d = np.sqrt(np.maximum([p["kl"] for p in mean], 0.0))
        proxy, gold = (np.array([p[c] - mean[0][c] for p in mean]) for c in ("proxy", signal))
        order = np.argsort(d, kind="stable")
        with _canvas(SMALL) as (figure, axes):
            axes.axhline(0, color=RULE, linewidth=0.8, zorder=0)
            low, high = gold[order], proxy[order]
            axes.fill_between(d[order], low, high, where=high >= low, interpolate=True,
                              color=colour, alpha=0.14, lw=0)  # fmt: skip
            for points in curves if len(curves) > 1 else ():
                x = np.sqrt(np.maximum([p["kl"] for p in points], 0.0))
                for column, style in (("proxy", "--"), (signal, "-")):
                    y = [p[column] - points[0][column] for p in points]
                    axes.plot(x, y, style, color=colour, linewidth=0.6, alpha=0.45)
            axes.plot(d, proxy, "--", color=colour, linewidth=1.5)
            axes.plot(d, gold, "-", color=colour, linewidth=2.0, marker=marker, markersize=3.5)
            _fit_line(axes, numbers, d)
            _peak(axes, numbers)
            _ends(axes, d, {"proxy": proxy, signal: gold})
            axes.set_xlabel("√KL, √nats")
            axes.set_ylabel("gain over the start")
            axes.set_xlim(left=0, right=float(d.max()) * 1.28 or 1.0)
            alt = _climb_words(title, signal, numbers)
            return Figure(
                place,
                embed_figure(figure, place, alt, self.sheet),
                alt,
                title,
                {"policy": name, **numbers},
            )

    def calibration(self, reward: Mapping[str, Any]) -> Figure | None:
        """Draw predicted against observed win probability."""
        bins = (reward.get("numbers") or reward).get("calibration")
        if not bins:
            return None
        x, y = ([b[k] for b in bins] for k in ("confidence", "frequency"))
        with _canvas(SMALL) as (figure, axes):
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
            axes.plot(x, y, "-", color=SERIES[0], linewidth=1.2, alpha=0.6)
            sizes = [10 + 60 * b["n"] / max(b["n"] for b in bins) for b in bins]
            axes.scatter(x, y, s=sizes, color=SERIES[0], edgecolor=PAPER, linewidth=0.8, zorder=3)
            axes.set_xlabel("predicted win probability")
            axes.set_ylabel("observed share")
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
            worst = max(bins, key=lambda b: abs(b["confidence"] - b["frequency"]))
            alt = (
                f"Calibration in {len(bins)} bins of equal size. Furthest from the diagonal: where "
                f"the model says {spell_percent(worst['confidence'])}, "
                f"{spell_percent(worst['frequency'])} was observed."
            )
            caption = "On the dotted line, what the model predicts is what happens."
            svg = embed_figure(figure, "calibration", alt, self.sheet)
            return Figure("calibration", svg, alt, caption, {"bins": bins})

    def lengths(self, points: Sequence[Mapping[str, Any]], score: str) -> Figure | None:
        """Draw a reward against the length of the answer."""
        if len(points) < 10:
            return None
        x, y = (np.array([p[k] for p in points], np.float64) for k in ("length", score))
        if not np.ptp(x) or not np.ptp(y):
            return None
        slope, start = np.polyfit(x, y, 1)
        r = float(np.corrcoef(x, y)[0, 1])
        with _canvas(SMALL) as (figure, axes):
            for name in dict.fromkeys(p["policy"] for p in points):
                mine = np.array([p["policy"] == name for p in points])
                colour, marker = self.look(name)
                axes.scatter(x[mine], y[mine], s=9, color=colour, marker=marker, alpha=0.55, lw=0)
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, start + slope * ends, color=INK, linewidth=1.2)
            axes.set_xlabel("length of the answer, tokens")
            axes.set_ylabel(score)
            alt = (
                f"{score} against length over {len(points)} sampled answers: correlation "
                f"{spell_signed(r)}, {spell_signed(float(slope), 3)} a token."
            )
            caption = (
                "Each mark is one answer; the line is least squares, "
                f"correlation {spell_signed(r)}."
            )
            numbers = {"n": len(points), "correlation": r, "slope": float(slope)}
            svg = embed_figure(figure, "lengths", alt, self.sheet)
            return Figure("lengths", svg, alt, caption, numbers)

    def _trail(self, axes: Any, curve: Mapping[str, Any], judge: str) -> None:
        points = curve["points"]
        if all(judge in p for p in points):
            x, y = [p["kl"] for p in points], [p[judge] - points[0][judge] for p in points]
            axes.plot(x, y, color=self.look(curve["policy"])[0], linewidth=0.9, alpha=0.5)

    def _spot(self, axes: Any, point: Mapping[str, Any]) -> None:
        colour, marker = self.look(point["policy"])
        for kl, gain in zip(point["each_kl"], point["each_gain"], strict=False):
            axes.plot(kl, gain, marker, color=colour, markersize=3.5, alpha=0.45, mew=0)
        x, y, low, high = (point[k] for k in ("kl", "gain", "low", "high"))
        if low is not None:
            axes.plot([x, x], [low, high], color=colour, linewidth=1.4)
        axes.plot(x, y, marker, color=colour, markersize=8, mec=PAPER, mew=1.0)


def average_curves(curves: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """Average several seeds' curves over the points that all of them have, in order."""
    length = min(len(c) for c in curves)
    shared = set.intersection(*({*p} for c in curves for p in c))
    return [
        {k: float(np.mean([c[m][k] for c in curves])) for k in sorted(shared)}
        for m in range(length)
    ]


def standard_errors(
    curves: Sequence[Sequence[Mapping[str, float]]], signal: str
) -> npt.NDArray[np.float64] | None:
    """Return [M] standard errors over seeds of what the signal gained; None where unknown."""
    length = min(len(c) for c in curves)
    if len(curves) < 2:
        return None
    gains = np.array([[c[m][signal] - c[0][signal] for m in range(length)] for c in curves])
    errors = gains.std(axis=0, ddof=1) / np.sqrt(len(curves))
    return errors if bool((errors[1:] > 0).all()) else None


def curve_numbers(
    points: Sequence[Mapping[str, float]],
    signal: str,
    form: Any,
    se: npt.NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """Say where the signal was best, what was gained, and the fitted peak.

    Args:
        points: the curve, a mean over seeds.
        signal: the column that was not optimised.
        form: see `over_optimisation`.
        se: [M] standard errors of the signal's gain, by which the fit is weighted.
    """
    kl = np.maximum([p["kl"] for p in points], 0.0)
    gold = np.array([p[signal] - points[0][signal] for p in points])
    best = int(np.argmax(gold))
    found: dict[str, Any] = {
        "signal": signal,
        "points": [dict(p) for p in points],
        "best": {"sqrt_kl": float(np.sqrt(kl[best])), "gain": float(gold[best]), "at": best},
        "end": {
            "sqrt_kl": float(np.sqrt(kl[-1])),
            "proxy": float(points[-1]["proxy"] - points[0]["proxy"]),
            "gain": float(gold[-1]),
        },
    }
    found["gap"] = found["end"]["proxy"] - found["end"]["gain"]
    if form == "rl" and all({"round", "length"} <= p.keys() for p in points):
        seen = diagnose_curve(points, signal=signal)
        found |= {"diverged": seen.diverged, "stop": seen.stop, "length_slope": seen.length_slope}
    if len(np.unique(kl[kl > 0])) >= 2:
        fit = over_optimisation(kl, gold, form, None if se is None or se[kl > 0].min() <= 0 else se)
        found["fit"] = {"alpha": fit.alpha, "beta": fit.beta, "form": form}
        if np.isfinite(fit.peak):
            found["fit"] |= {"peak": fit.peak, "height": fit.height}
    return found


@contextmanager
def _canvas(size: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """Open a figure whose every colour is one that the page translates."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Sheet

    fixed: Any = {
        "svg.hashsalt": "tandem", "svg.fonttype": "none", "text.parse_math": False,
        "font.size": 9.5, "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": RULE,
        "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED, "axes.linewidth": 0.9, "axes.labelsize": 9,
        "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "axes.spines.top": False,
        "axes.spines.right": False, "xtick.major.size": 3, "ytick.major.size": 3,
        "savefig.facecolor": "none", "axes.facecolor": "none",
    }  # fmt: skip
    with mpl.rc_context(fixed):
        figure = Sheet(figsize=size, layout="constrained")
        yield figure, figure.subplots()


def drawing_label(name: str) -> str:
    """Return a name that fits into a drawing: printable, at most `LONGEST_NAME` letters."""
    shown = "".join(c if c.isprintable() else " " for c in name).strip()
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 1]}…"


def _frontier(results: Mapping[str, Any], judge: str) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    for row in trained_policies(results):
        kl, gain = open_estimate(row.get("kl")), open_estimate(row.get(f"{judge} gain"))
        if kl is not None and gain is not None:
            each = row.get("per_seed") or {}
            points.append(
                {
                    "policy": row["policy"],
                    "kl": max(kl.mean, 0.0),
                    "gain": gain.mean,
                    "low": None if np.isnan(gain.low) else gain.low,
                    "high": None if np.isnan(gain.high) else gain.high,
                    "each_kl": each.get("kl", []),
                    "each_gain": each.get(f"{judge} gain", []),
                }
            )
    return points


def _best_of_n(axes: Any, bon: Sequence[Mapping[str, Any]], judge: str) -> None:
    shown = [p for p in bon if judge in p]
    if len(shown) > 1:
        x, y = [p["kl"] for p in shown], [p[judge] - shown[0][judge] for p in shown]
        axes.plot(x, y, "--", color=MUTED, linewidth=1.0)
        axes.annotate("best-of-n", (x[-1], y[-1]), (4, 0), textcoords="offset points",
                      color=MUTED, fontsize=8.5, va="center")  # fmt: skip


def _labels(axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside marks, lowest first, each at least a line above the one before."""
    low, high = axes.get_ylim()
    line, floor = (high - low) * 0.06, -np.inf
    right = axes.get_xlim()[1]
    for x, y, name in sorted(points, key=lambda p: p[1]):
        floor = max(y, floor + line)
        place = (x + right * 0.025, floor)
        axes.annotate(drawing_label(name), (x, y), place, color=INK, fontsize=9, va="center")
    axes.set_xlim(right=max(right, max(x for x, _, _ in points) + right * 0.25))


def _ends(axes: Any, d: Any, lines: Mapping[str, Any]) -> None:
    low, high = axes.get_ylim()
    line, floor = (high - low) * 0.09, -np.inf
    for name, y in sorted(lines.items(), key=lambda item: item[1][-1]):
        floor = max(float(y[-1]), floor + line)
        axes.annotate(name, (float(d[-1]), float(y[-1])), (float(d.max()) * 1.04, floor),
                      color=INK, fontsize=8.5, va="center")  # fmt: skip


def _fit_line(axes: Any, numbers: Mapping[str, Any], d: Any) -> None:
    if "peak" in numbers.get("fit", {}):
        fit = OverOptimisation(*(numbers["fit"][k] for k in ("alpha", "beta", "form")))
        x = np.linspace(max(float(d.max()) / 100, 1e-3), float(d.max()), 60)
        axes.plot(x, fit.at(x), color=INK, linewidth=0.7, alpha=0.7)


def _peak(axes: Any, numbers: Mapping[str, Any]) -> None:
    """Mark the fitted peak where it lies inside the drawing, else the best point measured."""
    fit, far = numbers.get("fit", {}), numbers["points"]
    right = max(p["kl"] for p in far) ** 0.5
    inside = "peak" in fit and 0 < fit["peak"] <= right
    at = (fit["peak"], fit["height"]) if inside else tuple(numbers["best"].values())[:2]
    axes.plot([at[0]] * 2, [0, at[1]], ":", color=INK, linewidth=0.8)
    axes.plot(*at, "D", color=PAPER, mec=INK, mew=1.1, markersize=5.5, zorder=4)


def _climb_words(name: str, signal: str, numbers: Mapping[str, Any]) -> str:
    best, end, fit = numbers["best"], numbers["end"], numbers.get("fit", {})
    words = (
        f"{name}: {signal} is best, {spell_signed(best['gain'])}, at √KL "
        f"{spell_decimal(best['sqrt_kl'])}; at the end {signal} {spell_signed(end['gain'])} "
        f"and proxy {spell_signed(end['proxy'])} at √KL "
        f"{spell_decimal(end['sqrt_kl'])}."
    )
    if "peak" in fit:
        beyond = fit["peak"] > max(p["kl"] for p in numbers["points"]) ** 0.5
        words += f" Fitted peak at √KL {spell_decimal(fit['peak'])}, "
        words += f"height {spell_signed(fit['height'])}"
        words += ", beyond what was reached." if beyond else "."
    if numbers.get("diverged"):
        words += f" The proxy went on rising while {signal} fell."
    return words

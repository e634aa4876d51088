"""Detectors of reward hacking on curves whose course is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tandem.errors import DataError
from tandem.evaluation.reward_hacking import (
    agreement_with_proxy,
    diagnose_curve,
    early_stop,
    plot_curves,
    read_curve,
    read_curve_by_prompt,
    trusted_signals,
)

ALPHA, BETA = 1.0, 0.5
PEAK = math.exp(ALPHA / BETA - 1)  # 2.718 in sqrt(KL)


def climb(hacked: bool = True, points: int = 13, every: int = 2) -> list[dict[str, float]]:
    """KL grows by 1.5 nats a point; truth follows Gao's curve, or the proxy without hacking."""
    found: list[dict[str, float]] = []
    for k in range(points):
        kl = 1.5 * k
        d = math.sqrt(kl)
        gold = d * (ALPHA - BETA * math.log(d)) if d else 0.0
        proxy = 2.0 + d
        found.append(
            {
                "round": float(every * k),
                "proxy": proxy,
                "truth": 5.0 + (gold if hacked else d),
                "held_out": 1.0 + (0.8 * gold if hacked else d),
                "kl": kl,
                "length": 10.0 + 0.5 * k,
                "stopped": 1.0,
            }
        )
    return found


def test_a_climb_that_hacks_is_told_from_one_that_does_not():
    """Gold peaks at sqrt(KL) = e, KL = 7.39, between the points of 7.5 and 6 nats: round 10."""
    hacked, honest = diagnose_curve(climb()), diagnose_curve(climb(hacked=False))
    assert hacked.diverged
    assert hacked.signal == "truth"
    assert hacked.stop == 10
    assert hacked.proxy.change > 0 > hacked.signals["truth"].change
    assert hacked.signals["held_out"].change < 0
    assert not honest.diverged
    assert honest.stop == 24
    assert honest.gap == pytest.approx(0, abs=1e-12)
    assert hacked.gap == pytest.approx(math.sqrt(18) - gold_at(18.0))
    assert "hacked" in str(hacked)
    assert "hacked" not in str(honest)


def gold_at(kl: float) -> float:
    d = math.sqrt(kl)
    return d * (ALPHA - BETA * math.log(d))


def test_slopes_and_the_fit_are_recovered():
    found = diagnose_curve(climb())
    assert found.length_slope == pytest.approx(0.25)
    assert found.kl_slope == pytest.approx(0.75)
    assert found.fit is not None
    assert found.fit.alpha == pytest.approx(ALPHA)
    assert found.fit.beta == pytest.approx(BETA)
    assert found.fit.peak == pytest.approx(PEAK)
    assert found.fit.height == pytest.approx(BETA * PEAK)


def test_the_most_trustworthy_signal_is_believed_unless_another_is_named():
    points = climb()
    assert diagnose_curve(points, signal="held_out").signal == "held_out"
    blind = [{k: v for k, v in p.items() if k != "truth"} for p in points]
    assert diagnose_curve(blind).signal == "held_out"


def test_early_stop_waits_for_its_patience():
    points = climb()
    assert early_stop(points[:6]) is None
    assert early_stop(points[:7]) is None
    assert early_stop(points[:8]) == 10
    assert early_stop(points, patience=100) is None
    assert early_stop(climb(hacked=False)) is None


def test_a_curve_at_the_start_has_no_fit():
    points = [{**p, "kl": -0.01 * k} for k, p in enumerate(climb(points=3))]
    assert diagnose_curve(points).fit is None
    str(diagnose_curve(points))


@pytest.mark.parametrize(
    "points", [[], climb(points=1), [{"round": float(k), "proxy": 1.0, "kl": 0.0} for k in (0, 1)]]
)
def test_curves_without_points_or_signals_are_refused(points: list[dict[str, float]]):
    with pytest.raises(DataError) as caught:
        diagnose_curve(points)
    assert all([caught.value.what, caught.value.why, caught.value.do])


def test_curves_are_read_from_events_once_a_round(tmp_path: Path):
    """A killed run evaluates a round twice; other kinds of lines and other stages are left out."""
    log = tmp_path / "events.jsonl"
    points = climb()

    def line(stage: str, kind: str, point: dict[str, float]) -> str:
        return json.dumps({"time": 1.0, "kind": kind, "stage": stage, **point}) + "\n"

    told = [line("03-policy", "watch", p) for p in [*points[:5], *points[4:]]]
    log.write_text("".join([*told, line("03-policy", "round", {"round": 1.0}), "{brok"]))
    read = read_curve(log)
    assert [p["round"] for p in read] == [p["round"] for p in points]
    assert read[3]["truth"] == points[3]["truth"]
    with log.open("a") as file:
        file.write("\n" + line("05-policy-hat", "watch", points[0]))
    with pytest.raises(DataError, match="2 stages"):
        read_curve(log)
    assert len(read_curve(log, "05-policy-hat")) == 1
    with pytest.raises(DataError, match="0 stages"):
        read_curve(log, "nobody")


def test_prompts_are_read_one_by_one_in_order_of_rounds(tmp_path: Path):
    log = tmp_path / "events.jsonl"
    told = [{"round": k, "truth": [1.0 * k, 2.0], "kl": [0.5, 0.25]} for k in (4, 0, 2, 4)]
    lines = [{"kind": "watched", "stage": "a", **p} for p in told] + [{"kind": "watch", **told[0]}]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_curve_by_prompt(log)
    assert [set(p) for p in read] == [{"truth", "kl"}] * 3
    assert [p["truth"].tolist() for p in read] == [[0.0, 2.0], [2.0, 2.0], [4.0, 2.0]]
    with pytest.raises(DataError, match="0 stages"):
        read_curve_by_prompt(log, "nobody")


def test_the_drawing_is_the_same_file_every_time(tmp_path: Path):
    pytest.importorskip("matplotlib")
    curves = {"beta 0": climb(), "beta .05": climb(hacked=False)}
    for name in ("a.svg", "b.svg"):
        plot_curves(curves, tmp_path / "deep" / name)
    a, b = ((tmp_path / "deep" / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert a == b
    text = a.decode()
    assert "beta 0: proxy" in text
    assert "beta .05: truth" in text
    assert "<dc:date>" not in text
    assert np.char.count(text, "<path") > 5


def judged(shared: float, rounds: int = 8, prompts: int = 400) -> list[dict[str, np.ndarray]]:
    """Rounds in which prompts are hard, the policy improves, and `held_out` has the proxy's errors.

    Truth, the proxy's error and another error are drawn anew for each answer; `held_out` makes the
    share `shared` of the proxy's error, `gold_rm` an error of its own.
    """
    rng = np.random.default_rng(0)
    hard = 10 * rng.normal(size=prompts)
    found: list[dict[str, np.ndarray]] = []
    for k in range(rounds):
        true, error, own = rng.normal(size=(3, prompts))
        base = hard + 3.0 * k + true
        found.append(
            {
                "proxy": base + 1.5 * error,
                "truth": base,
                "gold_rm": base + 0.5 * own,
                "held_out": base + 1.5 * (shared * error + math.sqrt(1 - shared**2) * own),
            }
        )
    return found


def test_agreement_is_over_single_answers_and_not_over_hard_prompts_or_better_policies():
    """corr(t + 1.5 e, t) = 1 / sqrt(3.25), and corr(t + 1.5 e, t + .5 o) = 1 / sqrt(3.25 1.25)."""
    found = agreement_with_proxy(judged(shared=1.0))
    assert found["truth"] == pytest.approx(1 / math.sqrt(3.25), abs=0.03)
    assert found["gold_rm"] == pytest.approx(1 / math.sqrt(3.25 * 1.25), abs=0.03)
    assert found["held_out"] == pytest.approx(1)
    raw = np.concatenate([p["proxy"] for p in judged(1.0)])
    assert np.corrcoef(raw, np.concatenate([p["truth"] for p in judged(1.0)]))[0, 1] > 0.95


def test_what_agrees_least_with_the_proxy_is_believed_but_not_noise():
    assert trusted_signals({}) == ["truth", "gold_rm", "held_out"]
    assert trusted_signals({"gold_rm": 0.98, "held_out": 0.6}) == ["truth", "held_out", "gold_rm"]
    assert trusted_signals({"gold_rm": 0.4, "held_out": -0.02}) == ["truth", "gold_rm", "held_out"]
    points = [{k: v for k, v in p.items() if k != "truth"} | {"gold_rm": p["proxy"]}
              for p in climb()]  # fmt: skip
    copies = [{k: v for k, v in p.items() if k != "truth"} for p in judged(shared=0.2)]
    copies = [p | {"gold_rm": p["proxy"] + 0.01 * p["held_out"]} for p in copies]
    blind = diagnose_curve(points)
    assert (blind.signal, blind.diverged) == ("gold_rm", False)
    seen = diagnose_curve(points, by_prompt=copies)
    assert (seen.signal, seen.diverged) == ("held_out", True)
    assert seen.agreement["gold_rm"] > 0.99 > seen.agreement["held_out"]
    told = str(diagnose_curve(points, by_prompt=copies, signal="gold_rm"))
    assert "gold_rm shares the proxy's errors" in told


def test_nothing_is_measured_where_nothing_differs():
    flat = [{"proxy": np.ones(3), "truth": np.arange(3.0)} for _ in range(2)]
    assert agreement_with_proxy(flat) == {}
    assert agreement_with_proxy(judged(0.0)[:1]) == {}

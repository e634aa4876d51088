"""Synthetic results for the report's tests: invented numbers in the shape of a bench's results."""

from __future__ import annotations

from typing import Any

import numpy as np

from tandem.statistics import mean_of, outcomes_of, paired_difference, win_rate

SEEDS, PROMPTS = 5, 120
GAINS = {"SFT": 0.0, "DPO": 0.5, "PPO": 0.45, "PPO-tie": 0.02}
HOSTILE = (
    "<script>document.title='owned'</script><img src=https://example.org/x.png onerror=alert(1)>"
    "</article></style>{{ 7*7 }} $\\frac{1}{0}$ & \" ' \u202ereversed --> ]]> }body{display:none}"
)


def synthetic(**changes: Any) -> dict[str, Any]:
    """A bench of four policies whose true gains are known, on five seeds."""
    rng = np.random.default_rng(7)
    level = rng.normal(2, 1, PROMPTS)
    truth = {n: level + g + rng.normal(0, 0.6, (SEEDS, PROMPTS)) for n, g in GAINS.items()}
    proxy = {n: level + 2 * g + rng.normal(0, 0.9, (SEEDS, PROMPTS)) for n, g in GAINS.items()}
    found = {
        "title": "synthetic bench",
        "question": "Which method wins in a world of invented numbers?",
        "task": "synthetic",
        "command": "tandem bench --task synthetic --seeds 5",
        "commit": "0" * 40,
        "environment": {"python": "3.11.0", "cpu": "none", "versions": {"torch": "2.6.0"}},
        "seeds": list(range(SEEDS)),
        "prompts": PROMPTS,
        "budget": {"labels": 1000, "samples": 4000},
        "judge": "truth",
        "opponent": "SFT",
        "alpha": 0.05,
        "policies": [_policy(n, truth, proxy) for n in GAINS] + [_failed()],
        "order": [_claim("SFT", "DPO", truth), _claim("DPO", "PPO", truth)],
        "matrix": _matrix(truth),
        "curves": [_curve(seed) for seed in range(SEEDS)],
        "bon": [
            {"n": n, "kl": np.log(n) - (n - 1) / n, "proxy": p, "truth": t, "gold_rm": t}
            for n, p, t in ((1, 0, 0), (4, 1, 0.5), (16, 1.6, 0.6), (64, 2.1, 0.4))
        ],
        "reward": {"numbers": _reward(rng)},
        "length_bias": {
            "by_difference": [
                {"bucket": "0 to 2", "n": 40, "win": win_rate(rng.random(40).round()).as_dict()}
            ]
        },
        "samples": [_sample(k, truth, proxy) for k in range(12)],
        "cost": [
            {"stage": "sft", "seconds": 12.0, "peak_bytes": 2**30, "seed": s} for s in range(3)
        ],
        "limits": ["Invented numbers show nothing about methods."],
    }
    return found | changes


def _policy(name: str, truth: dict[str, Any], proxy: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "policy": name,
        "method": name.lower(),
        "status": "done",
        "truth": mean_of(truth[name]).as_dict(),
        "gold_rm": mean_of(truth[name]).as_dict(),
        "proxy": mean_of(proxy[name]).as_dict(),
        "kl": mean_of(0.1 + GAINS[name] + 0 * truth[name] + truth[name] * 1e-3).as_dict(),
        "length": mean_of(12 + truth[name]).as_dict(),
        "seconds": {"mean": 30.0, "each": [29.0, 30.0, 30.0, 30.0, 31.0]},
        "peak_bytes": 2**31,
    }
    if name == "SFT":
        return row
    wins = win_rate(outcomes_of(truth[name], truth["SFT"]))
    gain = paired_difference(truth[name], truth["SFT"])
    each = (truth[name] - truth["SFT"]).mean(axis=1).tolist()
    return row | {
        "paper": {"TL;DR gold": 76.09} if name == "DPO" else None,
        "win vs SFT": wins.as_dict(),
        "ties vs SFT": 0.0,
        "truth gain": gain.as_dict(),
        "Holm p": min(1.0, 3 * wins.p_value),
        "proxy_win": win_rate(outcomes_of(proxy[name], proxy["SFT"])).as_dict(),
        "per_seed": {"truth gain": each, "kl": [0.1 + GAINS[name]] * SEEDS},
    }


def _failed() -> dict[str, Any]:
    reason = "ConfigError: beta = -1; beta is positive; give 0.1"
    return {"policy": "RSO", "method": "rso", "status": "failed", "reason": reason}


def _claim(a: str, b: str, truth: dict[str, Any]) -> dict[str, Any]:
    gain = paired_difference(truth[b], truth[a])
    verdict = "resolved" if gain.resolved and gain.mean > 0 else "not resolved"
    names = {"a": a, "b": b, "claim": f"{a} < {b}", "gain": gain.as_dict()}
    return names | {
        "holm_p": gain.p_value,
        "verdict": verdict,
        "needs": None if gain.resolved else 4321,
    }


def _matrix(truth: dict[str, Any]) -> dict[str, Any]:
    names = list(GAINS)
    win = [
        [None if a == b else win_rate(outcomes_of(truth[a], truth[b])).as_dict() for b in names]
        for a in names
    ]
    return {
        "names": names,
        "win": win,
        "holm_p": [[None if w is None else min(1, 6 * w["p_value"]) for w in row] for row in win],
    }


def _curve(seed: int) -> dict[str, Any]:
    """Gold turns over along d (alpha - beta ln d) with alpha = .5, beta = .5: the peak is d = 1."""
    points = []
    for k, d in enumerate(np.linspace(0, 2.5, 9)):
        gold = d * (0.5 - 0.5 * np.log(d)) if d else 0.0
        noise = 0.01 * seed * bool(k)
        points.append(
            {
                "round": 4.0 * k,
                "kl": d * d,
                "proxy": d,
                "truth": 2 + gold + noise,
                "length": 12.0 + k,
            }
        )
    return {"policy": "PPO", "seed": seed, "points": points}


def _reward(rng: np.random.Generator) -> dict[str, Any]:
    accuracy = win_rate(rng.random(200) < 0.7).as_dict()
    return {
        "judgments": 200,
        "ties": 8,
        "measures": {"accuracy": accuracy, "temperature, fitted on half": 1.2, "ECE": None},
        "slices": [
            {"slice": "length", "part": "longer answer wins", "n": 90, "accuracy": accuracy}
        ],
        "calibration": [
            {"n": 50, "confidence": c, "frequency": c**1.3} for c in (0.1, 0.4, 0.6, 0.95)
        ],
    }


def _sample(k: int, truth: dict[str, Any], proxy: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": f"Prompt number {k}: summarise the post.",
        "reference": "The reference answer.",
        "answers": [
            {
                "policy": name,
                "text": f"{name} answers {k}." + " and so on" * (k % 4),
                "truth": float(truth[name][0, k]),
                "proxy": float(proxy[name][0, k]),
                "length": 5 + 3 * (k % 4),
            }
            for name in GAINS
        ],
    }

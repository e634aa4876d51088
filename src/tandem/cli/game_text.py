"""What `tandem game` prints: tables of a game, in the order in which one asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tandem.statistics.games import (
    CycleTest,
    Equilibrium,
    GameIntervals,
    GameProfile,
    Trajectory,
    Votes,
)
from tandem.statistics.games.dynamics import DYNAMICS
from tandem.statistics.intervals import Estimate
from tandem.statistics.numerics import Floats

MOST_ROWS = 20
LETTERS = 24


@dataclass(frozen=True)
class GameFindings:
    """All that was found out about a game.

    Attributes:
        notes: how the file was read.
        profile: equilibria, exploitability, cycles, Bradley-Terry.
        votes: what the game was counted from; None for a matrix, as are the next two.
        intervals: from the votes drawn again.
        chance: the cyclic share beside what chance gives.
        tau: of the dynamics.
        goal: the regularised equilibrium at that tau.
        start: [n] the first policy of the dynamics.
        played: the dynamics, by the name of their function.
    """

    notes: tuple[str, ...]
    profile: GameProfile
    votes: Votes | None
    intervals: GameIntervals | None
    chance: CycleTest | None
    tau: float
    goal: Equilibrium
    start: Floats
    played: dict[str, Trajectory]

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        numbers: dict[str, Any] = {"notes": list(self.notes), **self.profile.as_dict()}
        if self.votes is not None:
            numbers["votes"] = {"total": self.votes.total, "pairs": self.votes.counts.tolist()}
        if self.intervals is not None and self.chance is not None:
            numbers["intervals"] = self.intervals.as_dict()
            numbers["chance"] = asdict(self.chance)
        numbers["dynamics"] = {
            "tau": self.tau,
            "start": self.start.tolist(),
            "goal": self.goal.policy.tolist(),
            "played": {name: t.as_dict() for name, t in self.played.items()},
        }
        return numbers


def tell_game(found: GameFindings) -> str:
    """Return everything as text for a terminal."""
    parts = [
        "\n".join(found.notes),
        _ranking(found),
        _bradley_terry(found),
        _losses(found),
        _equilibria(found),
        _dynamics(found),
    ]
    return "\n\n".join(parts)


def _ranking(found: GameFindings) -> str:
    profile, numbers = found.profile, found.intervals.numbers if found.intervals else {}
    lines = ["Is it a ranking?"]
    if profile.log_odds is None:
        lines.append("  cyclic share: unknown for log-odds, because some preference is certain")
    else:
        share = _share(profile.log_odds.share, numbers.get("cyclic share"))
        lines.append(f"  cyclic share: {share} of the log-odds (0 where Bradley-Terry holds)")
    share = _share(profile.difference.share, numbers.get("cyclic share of p - 1/2"))
    lines.append(f"  cyclic share: {share} of p - 1/2")
    cyclic, triples = profile.triples
    lines.append(f"  triples that go in a circle by majority: {cyclic:,} of {triples:,}")
    lines.append(f"  {_top(found)}")
    if found.chance is not None:
        chance = found.chance
        lines.append(
            f"  as counted {chance.share:.3f} of the log-odds; by chance, if Bradley-Terry were "
            f"true, {chance.expected:.3f}, 95 % below {chance.high:.3f}; p = {chance.p_value:.3f}"
        )
        lines.append(f"  {_verdict(chance)}")
    return "\n".join(lines)


def _verdict(chance: CycleTest) -> str:
    if chance.is_resolved:
        return "resolved: Bradley-Terry does not explain these votes"
    return "not resolved: Bradley-Terry with as many votes would often look as cyclic"


def _top(found: GameFindings) -> str:
    top = found.profile.top
    often = f", in {found.intervals.same_top:.0%} of the resamples" if found.intervals else ""
    if len(top) == 1:
        return f"`{top[0]}` is preferred to each other by majority{often}"
    shown = ", ".join(shorten_name(name) for name in top[:MOST_ROWS])
    more = f" and {len(top) - MOST_ROWS} more" if len(top) > MOST_ROWS else ""
    return f"nobody is preferred to all others; the best stand in a circle: {shown}{more}{often}"


def _bradley_terry(found: GameFindings) -> str:
    profile, fit = found.profile, found.profile.fit
    asked = "as many comparisons as votes" if found.votes else "every pair asked equally often"
    lines = [f"What Bradley-Terry says ({asked})"]
    if not fit.is_finite:
        lines.append("  somebody never loses; a prior of 10 nats keeps the rewards finite")
    rewards = found.intervals.rewards if found.intervals else {}
    rows = [("", "reward, nats", "wins against uniform")]
    against = profile.matrix.against(profile.matrix.uniform())
    for name in fit.ranking[:MOST_ROWS]:
        k = profile.matrix.index(name)
        reward = _sure(float(fit.rewards[k]), rewards.get(name))
        rows.append((shorten_name(name), reward, f"{against[k]:.3f}"))
    lines += [*align_rows(rows), *_more(len(fit.ranking), "names")]
    if not profile.wrong:
        return "\n".join([*lines, "  it has the right winner in every pair"])
    lines.append(f"  wrong on {len(profile.wrong):,} of {_pairs(len(fit.names)):,} pairs:")
    wrong = [("", "preferred", "Bradley-Terry says")]
    for pair in profile.wrong[:MOST_ROWS]:
        who = f"{shorten_name(pair.winner)} over {shorten_name(pair.loser)}"
        said = f"{pair.predicted:.3f}" + ("" if pair.is_reversed else ", even")
        wrong.append((who, f"{pair.preference:.3f}", said))
    return "\n".join([*lines, *align_rows(wrong), *_more(len(profile.wrong), "pairs")])


def _losses(found: GameFindings) -> str:
    numbers = found.intervals.numbers if found.intervals else {}
    rows = [("", "exploitability", "duality gap", "beaten most by", "at")]
    for loss in found.profile.losses:
        sure = numbers.get(f"exploitability of {loss.name}")
        beaten = shorten_name(loss.opponent) if loss.exploitability > 1e-9 else "nobody"
        rows.append(
            (
                loss.name,
                _sure(loss.exploitability, sure, 4),
                f"{loss.duality_gap:.4f}",
                beaten,
                f"{loss.win_rate:.3f}",
            )
        )
    head = "What an opponent who knows the policy gains (the value of the game is 1/2)"
    return "\n".join([head, *align_rows(rows)])


def _equilibria(found: GameFindings) -> str:
    profile = found.profile
    sure = found.intervals.equilibrium if found.intervals else {}
    columns = [profile.equilibrium, *profile.regularised]
    rows = [("", "none", *(f"tau {e.tau:g}" for e in profile.regularised), "reference")]
    names = profile.matrix.names
    heaviest = sorted(range(len(names)), key=lambda k: -max(e.policy[k] for e in columns))
    for k in sorted(heaviest[:MOST_ROWS]):
        first = _sure(float(profile.equilibrium.policy[k]), sure.get(names[k]), 4)
        rest = [f"{e.policy[k]:.4f}" for e in profile.regularised]
        rows.append((shorten_name(names[k]), first, *rest, f"{profile.reference[k]:.4f}"))
    lines = [
        "Equilibria, by the price tau of a nat of KL to the reference",
        *align_rows(rows),
        *_more(len(names), "names"),
    ]
    if not profile.equilibrium.is_unique:
        lines.append("  without a price there are several; this is one of them")
    worst = max(e.residual for e in columns)
    return "\n".join([*lines, f"  largest error in their equations: {worst:.1e}"])


def _dynamics(found: GameFindings) -> str:
    steps = int(next(iter(found.played.values())).steps[-1])
    rows = [("", "last iterate", "average", "TV to pi*_tau", "what is promised")]
    promised = {
        "regularised": "last iterate to pi*_tau",
        "last": "last iterate to an equilibrium",
        "average": "average to an equilibrium",
        "none": "nothing",
    }
    for name, trajectory in found.played.items():
        distance = 0.5 * float(abs(trajectory.last - found.goal.policy).sum())
        rows.append(
            (
                trajectory.name,
                f"{trajectory.exploitability:.4f}",
                f"{trajectory.average_exploitability:.4f}",
                f"{distance:.4f}",
                promised[DYNAMICS[name].goal],
            )
        )
    head = f"Ways of learning: exploitability after {steps:,} steps, tau = {found.tau:g}"
    goal = f"  pi*_tau itself has {found.goal.exploitability:.4f}"
    return "\n".join([head, *align_rows(rows), goal])


def align_rows(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield lines of columns: the first to the left, the others to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  " + "  ".join(cells).rstrip()


def shorten_name(name: str) -> str:
    """Return a name of at most 24 letters."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def _sure(value: float, estimate: Estimate | None, digits: int = 3) -> str:
    value = value if abs(value) >= 0.5 * 10**-digits else 0.0
    told = f"{value:.{digits}f}"
    if estimate is None:
        return told
    return f"{told} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _share(counted: float, estimate: Estimate | None) -> str:
    """Spell a share less what the noise of the votes adds; as it is where there are no votes."""
    return _sure(counted if estimate is None else estimate.mean, estimate)


def _more(n: int, what: str) -> list[str]:
    return [f"  and {n - MOST_ROWS:,} more {what}: see --json"] if n > MOST_ROWS else []


def _pairs(n: int) -> int:
    return n * (n - 1) // 2

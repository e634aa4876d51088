"""Games of preferences, exactly: equilibria, exploitability, cycles, and ways of learning to play.

A preference model says how often each answer beats each other. That is a symmetric game. Its
equilibrium is a policy that nobody beats, and a scalar reward need not find it.

    matrix           PreferenceMatrix, mix_rankings
    equilibrium      nash_equilibrium, limit_equilibrium, regularised_equilibrium(s)
    exploitability   exploitability, duality_gap, regularised_gap, best_response
    cycles           decompose, cyclic_triples, top_cycle
    bradley_terry    fit_rewards, wrong_pairs
    dynamics         nash_md, nash_ema, self_play, iterated_best_response, fictitious_play,
                     optimistic, sppo_play, online_ipo; each gives a Trajectory
    votes            Votes, count_votes
    resampling       resample_votes, check_transitivity
    profile          profile_game: all of it at once
    game_file        read_game: CSV, JSON, votes

No torch.
"""

from tandem.statistics.games import dynamics
from tandem.statistics.games.bradley_terry import RewardFit, WrongPair, fit_rewards, wrong_pairs
from tandem.statistics.games.cycles import (
    Decomposition,
    cyclic_triples,
    decompose,
    top_cycle,
)
from tandem.statistics.games.equilibrium import (
    Equilibrium,
    limit_equilibrium,
    nash_equilibrium,
    regularised_equilibria,
    regularised_equilibrium,
)
from tandem.statistics.games.exploitability import (
    best_response,
    duality_gap,
    exploitability,
    regularised_gap,
    strongest_opponent,
)
from tandem.statistics.games.game_file import GameFile, read_game
from tandem.statistics.games.matrix import PreferenceMatrix, mix_rankings
from tandem.statistics.games.profile import GameProfile, profile_game
from tandem.statistics.games.resampling import (
    CycleTest,
    GameIntervals,
    check_transitivity,
    resample_votes,
)
from tandem.statistics.games.trajectory import Trajectory
from tandem.statistics.games.votes import Votes, count_votes

__all__ = [
    "PreferenceMatrix",
    "mix_rankings",
    "Equilibrium",
    "nash_equilibrium",
    "limit_equilibrium",
    "regularised_equilibrium",
    "regularised_equilibria",
    "exploitability",
    "duality_gap",
    "regularised_gap",
    "best_response",
    "strongest_opponent",
    "Decomposition",
    "decompose",
    "cyclic_triples",
    "top_cycle",
    "RewardFit",
    "WrongPair",
    "fit_rewards",
    "wrong_pairs",
    "dynamics",
    "Trajectory",
    "Votes",
    "count_votes",
    "GameIntervals",
    "CycleTest",
    "resample_votes",
    "check_transitivity",
    "GameProfile",
    "profile_game",
    "GameFile",
    "read_game",
]

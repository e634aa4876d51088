"""What each operator keeps, compares and refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import ConfigError, DataError
from tandem.operators import (
    Operator,
    above,
    best,
    clean_pairs,
    correct,
    is_mismatched,
    majority,
    mismatch,
    rank_pairs,
    rejection,
    synthetic_pairs,
    top_share,
    unpair,
)
from tandem.rng import Seed


def group(
    scores: Sequence[float] | None = None,
    *,
    name: str = "x",
    texts: str | None = None,
    clusters: Sequence[int] | None = None,
    preferences: tuple[Preference, ...] = (),
) -> Group:
    """One completion a letter; prompt text is the id."""
    n = len(scores or clusters or texts or "")
    letters = texts or "abcdefghijklmnop"[:n]
    return Group(
        Prompt(name, f"prompt {name}"),
        tuple(Completion(letter, np.array([ord(letter)], np.int32)) for letter in letters),
        scores=None if scores is None else np.array(scores, np.float64),
        clusters=None if clusters is None else np.array(clusters, np.int32),
        preferences=preferences,
    )


def run(operator: Operator, *groups: Group, seed: int = 0) -> list[Group]:
    return list(operator(groups, Seed(seed)))


def texts(g: Group) -> str:
    return "".join(c.text for c in g.completions)


def test_operators_are_values_that_print_as_their_call() -> None:
    assert repr(rejection(beta=0.5, keep=8)) == (
        "rejection(beta=0.5, keep=8, mode='pool', bound=None, dedupe=False, unit='score')"
    )
    assert rejection(0.5, 8) == rejection(beta=0.5, keep=8)
    assert len({best(), best(), best(2)}) == 2


def test_best_keeps_the_top_in_order_and_the_earlier_of_equals() -> None:
    (kept,) = run(best(3), group([1, 3, 2, 3]))
    assert texts(kept) == "bdc"
    assert np.asarray(kept.scores).tolist() == [3, 3, 2]


def test_above_is_strict() -> None:
    (kept,) = run(above(tau=2), group([1, 2, 3]), group([0, 1], name="y"))
    assert texts(kept) == "c"


def test_above_a_global_and_a_local_quantile() -> None:
    """Global median of (1..4, 11..14) is 4; local medians are 2 and 12."""
    low, high = group([1, 2, 3, 4], name="low"), group([11, 12, 13, 14], name="high")
    assert [texts(g) for g in run(above(quantile=0.5), low, high)] == ["abcd"]
    local = run(above(quantile=0.5, scope="per_prompt"), low, high)
    assert [texts(g) for g in local] == ["cd", "cd"]


def test_above_on_rescaled_scores() -> None:
    """tau = .7 of [0, 1]: over both prompts the cut is .7 * 20 = 14; over the second, 18."""
    a, b = group([0, 10], name="a"), group([16, 19, 20], name="b")
    assert [texts(g) for g in run(above(tau=0.7, unit=True), a, b)] == ["abc"]
    assert [texts(g) for g in run(above(tau=0.7, unit=True, scope="per_prompt"), a, b)] == [
        "b",
        "bc",
    ]


def test_above_reads_a_stream_twice_when_it_must() -> None:
    stream = (group([1, 2, 3, 4], name=str(k)) for k in range(3))
    assert [texts(g) for g in above(quantile=0.75)(stream, Seed())] == ["d", "d", "d"]


def test_above_refuses_to_keep_nothing() -> None:
    with pytest.raises(DataError, match=r"highest score is 2"):
        run(above(tau=5), group([1, 2]))


def test_top_share_keeps_an_exact_number_by_lot_among_equals() -> None:
    groups = [group([0, 1, 1, 1], name=str(k)) for k in range(5)]
    kept = run(top_share(0.5), *groups)
    assert sum(map(len, kept)) == 10
    assert all("a" not in texts(g) for g in kept)
    assert {g.id: texts(g) for g in kept} == {
        g.id: texts(g) for g in run(top_share(0.5), *groups[::-1])
    }
    assert [texts(g) for g in kept] != [texts(g) for g in run(top_share(0.5), *groups, seed=1)]


@pytest.mark.parametrize("keep", [1, 3, 9])
def test_rejection_returns_as_many_as_it_can(keep: int) -> None:
    (kept,) = run(rejection(0.5, keep), group([0, 1, 2, 3, 4]))
    assert len(kept) == min(keep, 5)
    assert len(set(texts(kept))) == len(kept)


def test_rejection_always_takes_the_best_in_the_first_round() -> None:
    for seed in range(20):
        (kept,) = run(rejection(1e-6, keep=2), group([0, 1, 5, 2]), seed=seed)
        assert texts(kept) == "cd"


def test_rejection_dedupes_only_when_asked() -> None:
    g = group([1, 1, 1, 0], texts="aaab")
    assert texts(run(rejection(math.inf, keep=4), g)[0]) == "aaab"
    assert texts(run(rejection(math.inf, keep=4, dedupe=True), g)[0]) == "ab"


def test_rejection_with_a_bound_that_does_not_hold() -> None:
    with pytest.raises(DataError, match=r"group `x` has a score of 2, above bound = 1"):
        run(rejection(0.5, 2, mode="iid", bound=1.0), group([0, 2]))


def test_pairings() -> None:
    g = group([3, 1, 2, 5, 4])
    for pairing, count in (("first-round", 2), ("tournament", 4), ("all", 10), ("best-worst", 1)):
        (ranked,) = run(rank_pairs(pairing), g)
        assert len(ranked.preferences) == count
        for pair in ranked.preferences:
            assert np.asarray(g.scores)[pair.i] > np.asarray(g.scores)[pair.j]
            assert pair.p == 1
    first = run(rank_pairs(), g)[0].preferences
    assert len({k for pair in first for k in (pair.i, pair.j)}) == 4
    (extremes,) = run(rank_pairs("best-worst"), g)[0].preferences
    assert (extremes.i, extremes.j) == (3, 1)


def test_a_tournament_has_one_champion() -> None:
    """Everyone but the best loses exactly once."""
    (ranked,) = run(rank_pairs("tournament"), group([3, 1, 2, 5, 4, 0, 9]))
    assert sorted(pair.j for pair in ranked.preferences) == [0, 1, 2, 3, 4, 5]


def test_soft_labels_are_sigmoids_of_the_difference_and_ties_a_half() -> None:
    (ranked,) = run(rank_pairs("all", soft=True), group([0.0, math.log(4), 0.0]))
    assert {(v.i, v.j): round(v.p, 12) for v in ranked.preferences} == {
        (1, 0): 0.8,
        (0, 2): 0.5,
        (1, 2): 0.8,
    }


def test_a_tie_is_kept_among_clicks_too() -> None:
    """RSO's hard labels are sign(r - r'): 1, or 1/2 where both scores are the same."""
    (ranked,) = run(rank_pairs("all"), group([2.0, 1.0, 2.0]))
    assert {(v.i, v.j): v.p for v in ranked.preferences} == {(0, 1): 1, (0, 2): 0.5, (2, 1): 1}


def test_majority_and_its_floor() -> None:
    g = group(clusters=[0, 1, 1, 2, -1, -1, -1])
    assert texts(run(majority(), g)[0]) == "bc"
    assert run(majority(0.3), g) == []
    assert run(majority(), group(clusters=[-1, -1])) == []


def test_majority_breaks_ties_by_mean_score_then_by_order() -> None:
    assert texts(run(majority(), group(clusters=[0, 0, 1, 1]))[0]) == "ab"
    assert texts(run(majority(), group([0, 1, 1, 1], clusters=[0, 0, 1, 1]))[0]) == "cd"


def test_correct_keeps_right_answers() -> None:
    kept = run(correct(), group([0, 1, 1]), group([0, 0], name="y"))
    assert [texts(g) for g in kept] == ["bc"]
    with pytest.raises(DataError, match=r"scores of 0 and 1; group `x`"):
        run(correct(), group([0.2, 1]))


COUNTS_5_3_2 = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]


def test_synthetic_pairs_at_the_threshold() -> None:
    """Clusters of 5, 3 and 2 of 10 at gamma = .5: kept with >=, dropped with >."""
    scores = [0.1, 0.9, 0.3, 0.2, 0.5, 7, 8, 9, 6, 5]
    g = group(scores, clusters=COUNTS_5_3_2)
    losers = set()
    for seed in range(60):
        (pair,) = run(synthetic_pairs(0.5), g, seed=seed)
        assert pair.completions[0].text == "b"
        assert pair.preferences == (Preference(0, 1, by="clusters"),)
        losers.add(pair.completions[1].text)
    assert losers == set("fghij")
    assert run(synthetic_pairs(0.5, confidence=">"), g) == []


def test_synthetic_pairs_need_somebody_outside() -> None:
    assert run(synthetic_pairs(0.5), group([1, 2, 3], clusters=[4, 4, 4])) == []


def test_synthetic_pairs_without_a_threshold_keep_all_with_two_clusters() -> None:
    groups = [group([1, 2, 3], clusters=c, name=str(c)) for c in ([0, 1, 2], [0, 0, 1], [0, 0, 0])]
    assert [g.id for g in run(synthetic_pairs(0.0), *groups)] == ["[0, 1, 2]", "[0, 0, 1]"]


def test_synthetic_winner_may_be_uniform() -> None:
    g = group(clusters=COUNTS_5_3_2)
    winners = {
        run(synthetic_pairs(winner="uniform"), g, seed=s)[0].completions[0].text for s in range(60)
    }
    assert winners == set("abcde")


def test_synthetic_pairs_ties_between_clusters_go_to_the_higher_mean() -> None:
    (pair,) = run(synthetic_pairs(0.5), group([1, 2, 3, 4], clusters=[0, 0, 1, 1]))
    assert pair.completions[0].text == "d"
    assert pair.completions[1].text in "ab"


def test_clean_pairs() -> None:
    g = group(
        [0, 0.1, 2, 2],
        texts="aabc",
        preferences=(
            Preference(0, 1),
            Preference(2, 0),
            Preference(2, 3, p=0.5),
            Preference(1, 3, p=0.7),
        ),
    )
    assert run(clean_pairs(), g)[0].preferences == (Preference(2, 0), Preference(1, 3, p=0.7))
    assert run(clean_pairs(gap=1.95), g)[0].preferences == (Preference(2, 0),)
    assert run(clean_pairs(gap=3), g) == []


def test_unpair() -> None:
    votes = (Preference(0, 1), Preference(1, 2, p=0.8), Preference(0, 3, p=0.5))
    singles = run(unpair(), group(texts="abcd", preferences=votes))
    found = {g.id: (texts(g), float(np.asarray(g.scores)[0])) for g in singles}
    assert found == {"x/0": ("a", 1.0), "x/1": ("b", 0.0), "x/2": ("c", 0.0)}
    assert all(not g.preferences and len(g) == 1 for g in singles)


def test_mismatch_pairs_each_prompt_with_the_answer_before() -> None:
    """x_i with y_{i-1}, the first with the last: TRL 1.16's order."""
    groups = [group([1.0], name=str(k), texts="abcde"[k]) for k in range(5)]
    assert [texts(g) for g in run(mismatch(), *groups)] == ["ae", "ba", "cb", "dc", "ed"]
    assert [texts(g) for g in run(mismatch(block=3), *groups)] == ["ac", "ba", "cb", "de", "ed"]


def test_mismatched_answers_carry_no_weight_and_no_score() -> None:
    first, second = group([1.0, 0.0], name="0", texts="ab"), group([1.0], name="1", texts="c")
    judged = tuple(replace(c, logp=np.array([-1.0])) for c in second.completions)
    second = replace(second, completions=judged)
    a, b = Groups.of(run(mismatch(), first, second))
    assert (texts(a), texts(b)) == ("abcc", "ca")
    assert is_mismatched(a).tolist() == [False, False, True, True]
    assert [c.weight for c in a.completions] == [1, 1, 0, 0]
    assert all(c.logp is None for c in a.completions)
    assert np.isnan(np.asarray(a.scores)[2:]).all()
    assert b.completions[1].tokens.tolist() == [ord("a")]
    assert not is_mismatched(first).any()


def test_mismatch_passes_over_the_same_prompt() -> None:
    votes = (Preference(0, 1),)
    pairs = [
        group(texts="ab", name="p", preferences=votes),
        group(texts="cd", name="q", preferences=votes),
    ]
    singles = run(unpair(), *pairs)
    assert [texts(g) for g in run(mismatch(), *singles)] == ["ad", "bd", "cb", "db"]
    with pytest.raises(DataError, match=r"no other prompt for group `p/0`"):
        run(mismatch(), *singles[:2])


def test_the_error_names_the_group_and_the_judge() -> None:
    votes = (Preference(0, 1, by="llm-pairwise"),)
    with pytest.raises(DataError) as caught:
        run(rejection(0.5, 8), group(texts="ab", name="tldr/0193", preferences=votes))
    assert caught.value.what == (
        "`rejection` needs a score on every completion; group `tldr/0193` has preferences only "
        "(judge `llm-pairwise`)"
    )
    assert "Pointwise" in caught.value.do


@pytest.mark.parametrize(
    ("operator", "bad", "match"),
    [
        (best(), group(texts="ab"), r"group `x` has none"),
        (best(), group([1, math.nan]), r"finite scores; group `x` has scores \[1.0, nan\]"),
        (best(), Group(Prompt("x", ""), (), scores=np.empty(0)), r"has no completion"),
        (majority(), group([1, 2]), r"`majority` needs clusters; group `x`"),
        (synthetic_pairs(), group([1, 2]), r"`synthetic_pairs` needs clusters; group `x`"),
        (unpair(), group([1, 2]), r"`unpair` needs preferences; group `x`"),
    ],
)
def test_missing_columns_are_named(operator: Operator, bad: Group, match: str) -> None:
    with pytest.raises(DataError, match=match):
        run(operator, bad)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: best(0),
        lambda: above(),
        lambda: above(tau=1, quantile=0.5),
        lambda: above(quantile=1.0),
        lambda: above(tau=1, scope="per_prompt"),
        lambda: above(quantile=0.5, scope="prompt"),  # type: ignore[arg-type]
        lambda: top_share(0),
        lambda: rejection(-1, 2),
        lambda: rejection(math.nan, 2),
        lambda: rejection(0.5, 0),
        lambda: rejection(0.5, 2, mode="iid"),
        lambda: rejection(0.5, 2, bound=1.0),
        lambda: rank_pairs("swiss"),  # type: ignore[arg-type]
        lambda: majority(1.5),
        lambda: synthetic_pairs(-0.1),
        lambda: synthetic_pairs(confidence="="),  # type: ignore[arg-type]
        lambda: synthetic_pairs(winner="best"),  # type: ignore[arg-type]
        lambda: mismatch(block=1),
    ],
)
def test_impossible_settings_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ConfigError):
        wrong()

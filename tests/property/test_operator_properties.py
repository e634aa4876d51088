"""Laws that every operator keeps, on random groups."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import DataError
from tandem.operators import (
    Operator,
    above,
    best,
    clean_pairs,
    correct,
    majority,
    mismatch,
    rank_pairs,
    rejection,
    synthetic_pairs,
    top_share,
    unpair,
)
from tandem.rng import Seed

LOCAL: list[Operator] = [
    best(),
    best(2),
    above(tau=-100.0),
    above(quantile=0.3, scope="per_prompt"),
    rejection(0.7, 3),
    rejection(0.7, 3, dedupe=True),
    rejection(2.0, 3, mode="iid", bound=10.0),
    rank_pairs(),
    rank_pairs("tournament", soft=True),
    rank_pairs("all"),
    rank_pairs("best-worst"),
    majority(),
    synthetic_pairs(0.3),
    synthetic_pairs(0.3, confidence=">", winner="uniform"),
    clean_pairs(),
    unpair(),
]
GLOBAL: list[Operator] = [top_share(0.5), above(quantile=0.4), mismatch()]


@st.composite
def a_group(draw: st.DrawFn, name: str) -> Group:
    n = draw(st.integers(2, 7))
    score = st.integers(-3, 3).map(float)
    index = st.integers(0, n - 1)
    pairs = draw(
        st.lists(
            st.tuples(index, index, st.sampled_from([0.0, 0.3, 0.5, 1.0])).filter(
                lambda t: t[0] != t[1]
            ),
            min_size=1,
            max_size=4,
        )
    )
    return Group(
        Prompt(name, f"prompt {name}"),
        tuple(Completion(f"{name}-{draw(st.integers(0, 3))}", author=str(i)) for i in range(n)),
        scores=np.array(draw(st.lists(score, min_size=n, max_size=n))),
        preferences=tuple(Preference(i, j, p) for i, j, p in pairs),
        clusters=np.array(draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n)), np.int32),
    )


@st.composite
def some_groups(draw: st.DrawFn) -> list[Group]:
    count = draw(st.integers(2, 5))
    return [draw(a_group(f"g{k}")) for k in range(count)]


def run(operator: Operator, groups: Iterable[Group], seed: int) -> list[Group]:
    """What comes out; `above` refuses to keep nothing of everything, which is nothing here."""
    try:
        return list(operator(groups, Seed(seed)))
    except DataError:
        assert isinstance(operator, above)
        return []


def shown(g: Group) -> tuple[object, ...]:
    """A group's content, comparable."""
    return (
        g.id,
        tuple((c.text, c.author, c.weight) for c in g.completions),
        None if g.scores is None else tuple(np.nan_to_num(g.scores, nan=99.0).tolist()),
        g.preferences,
        None if g.clusters is None else tuple(g.clusters.tolist()),
    )


@settings(max_examples=40, deadline=None)
@given(some_groups(), st.integers(0, 100))
def test_operators_never_invent_completions(groups: list[Group], seed: int) -> None:
    """Every completion that comes out is one that went in, with its own score."""
    for operator in [*LOCAL, *GLOBAL]:
        known = {g.id: {(c.text, c.author) for c in g.completions} for g in groups}
        score = {
            (c.text, c.author): s
            for g in groups
            for c, s in zip(g.completions, np.asarray(g.scores), strict=True)
        }
        for out in run(operator, groups, seed):
            for k, c in enumerate(out.completions):
                key = (c.text, c.author)
                if isinstance(operator, mismatch) and c.weight == 0:
                    assert any(key in of for name, of in known.items() if name != out.id)
                    continue
                assert key in known[out.id.split("/")[0]]
                if not isinstance(operator, unpair):
                    assert np.asarray(out.scores)[k] == score[key]


@settings(max_examples=40, deadline=None)
@given(some_groups(), st.integers(0, 100), st.randoms(use_true_random=False))
def test_the_order_of_groups_does_not_matter(
    groups: list[Group], seed: int, random: object
) -> None:
    order = list(groups)
    random.shuffle(order)  # type: ignore[attr-defined]
    for operator in [*LOCAL, *GLOBAL[:2]]:
        straight = sorted(shown(g) for g in run(operator, groups, seed))
        assert straight == sorted(shown(g) for g in run(operator, order, seed))


@settings(max_examples=40, deadline=None)
@given(some_groups(), st.integers(0, 100))
def test_a_group_alone_is_treated_as_in_company(groups: list[Group], seed: int) -> None:
    for operator in LOCAL:
        together = [shown(g) for g in run(operator, groups, seed)]
        alone = [shown(g) for one in groups for g in run(operator, [one], seed)]
        assert together == alone


@settings(max_examples=40, deadline=None)
@given(some_groups(), st.integers(0, 100))
def test_streams_lists_and_collections_agree(groups: list[Group], seed: int) -> None:
    for operator in [*LOCAL, *GLOBAL]:
        listed = [shown(g) for g in run(operator, groups, seed)]
        assert listed == [shown(g) for g in run(operator, iter(groups), seed)]
        assert listed == [shown(g) for g in run(operator, Groups.of(groups), seed)]


@settings(max_examples=60, deadline=None)
@given(a_group("g"), st.randoms(use_true_random=False))
def test_permuting_completions_permutes_what_is_kept(g: Group, random: object) -> None:
    """For operators without chance, on distinct scores."""
    n = len(g)
    distinct = Group(
        g.prompt, g.completions, np.asarray(g.scores) * n + np.arange(n), (), g.clusters
    )
    order = list(range(n))
    random.shuffle(order)  # type: ignore[attr-defined]
    for operator in (best(), best(2), above(quantile=0.5, scope="per_prompt"), rank_pairs("all")):
        (a,), (b,) = (list(operator([x], Seed(0))) for x in (distinct, distinct.keep(order)))
        assert sorted(c.author for c in a.completions) == sorted(c.author for c in b.completions)
        assert _named(a) == _named(b)


def _named(g: Group) -> set[tuple[str, str, float]]:
    return {(g.completions[p.i].author, g.completions[p.j].author, p.p) for p in g.preferences}


@settings(max_examples=60, deadline=None)
@given(a_group("g"), st.integers(1, 9), st.integers(0, 50))
def test_rejection_returns_exactly_as_many(g: Group, keep: int, seed: int) -> None:
    (kept,) = rejection(0.5, keep)([g], Seed(seed))
    assert len(kept) == min(keep, len(g))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=5), min_size=1))
def test_correct_keeps_every_right_answer(rows: list[list[float]]) -> None:
    groups = [
        Group(Prompt(str(k), ""), tuple(Completion("") for _ in row), scores=np.array(row))
        for k, row in enumerate(rows)
    ]
    kept = sum(len(g) for g in correct()(groups, Seed(0)))
    assert kept == sum(map(sum, rows))

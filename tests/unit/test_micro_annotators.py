"""Annotators: how often they err, which way they lean, and that camps go round in circles."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import ConfigError, DataError, JudgeError
from tandem.judges import Judge, only_compares
from tandem.rng import Seed
from tandem.tasks import TASKS, Sizes
from tandem.tasks.load import MICRO, describe_people, load_task
from tandem.tasks.micro import Annotator, Camps, Drifting, DriftingTruth, Micro, Truth, posts

TASK = Micro("summaries")


def pairs(n: int, texts: int = 2) -> Groups:
    """Prompts with a good summary and worse ones."""
    return Groups.of(
        Group(
            group.prompt,
            tuple(
                Completion(posts.render_summary(facts[: 3 - k]), author=str(k))
                for k in range(texts)
            ),
        )
        for group in TASK.prompts("preference", n, Seed(0))
        for facts in [posts.told_targets(group.prompt.meta)]
    )


def share(judge: Judge, groups: Groups) -> float:
    """How often the first of a pair is preferred."""
    return float(np.mean([vote.p for group in judge(groups) for vote in group.preferences]))


def swapped(groups: Groups) -> Groups:
    return groups.map(lambda group: group.keep([1, 0]))


def test_every_annotator_is_a_judge() -> None:
    for judge in (Truth(), Annotator(), Camps(), Drifting()):
        assert isinstance(judge, Judge)
        assert hash(judge) == hash(judge)


def test_truth_writes_scores_and_leaves_the_rest() -> None:
    groups = pairs(5, 3)
    for before, after in zip(groups, TASK.truth()(groups), strict=True):
        assert after.scores is not None
        assert after.scores.tolist() == [3.0, 2.0, 1.0]
        assert [c.text for c in after.completions] == [c.text for c in before.completions]


def test_a_quarter_of_the_answers_are_flipped() -> None:
    groups = pairs(1500)
    assert share(TASK.annotator(flips=0.25), groups) == pytest.approx(0.75, abs=0.035)
    assert share(TASK.annotator(flips=0.0), groups) == 1.0
    assert share(TASK.annotator(flips=0.0), swapped(groups)) == 0.0


def test_bradley_terry_noise_depends_on_the_gap() -> None:
    judge = Annotator(flips=0.0, temperature=1.0)
    group = pairs(1, 3)[0]
    best, middle, worst = (c.text for c in group.completions)
    assert judge.p(group.prompt.meta, best, middle) == pytest.approx(1 / (1 + np.exp(-1)))
    assert judge.p(group.prompt.meta, best, worst) == pytest.approx(1 / (1 + np.exp(-2)))


def test_biases_lean_the_way_they_say() -> None:
    group = pairs(1)[0]
    meta, (good, short) = group.prompt.meta, (c.text for c in group.completions)
    assert Annotator(flips=0.0, position=2.0).p(meta, short, good) == 1.0
    assert Annotator(flips=0.0, position=-2.0).p(meta, good, short) == 0.0
    assert Annotator(flips=0.0, length=-1.0).p(meta, good, short) == 0.0


def test_answers_do_not_depend_on_order() -> None:
    groups = pairs(40, 3)
    for judge in (TASK.annotator(), Camps(), Drifting(round=4)):
        once = {g.id: g.preferences for g in judge(groups)}
        again = {g.id: g.preferences for g in judge(list(groups)[::-1])}
        assert once == again


def test_seeds_differ() -> None:
    groups = pairs(60)
    first, second = (
        [g.preferences[0].p for g in TASK.annotator(seed=Seed(s))(groups)] for s in (1, 2)
    )
    assert first != second


def cycle() -> tuple[dict, list[str]]:
    """A short, a medium and a long summary of one post."""
    meta = TASK.prompts("preference", 1, Seed(0))[0].prompt.meta
    facts = posts.told_targets(meta)
    return meta, [posts.render_summary(told) for told in (facts[:1], facts, [*facts, facts[0]])]


def test_the_majority_of_the_camps_goes_round_in_a_circle() -> None:
    meta, (short, medium, long) = cycle()
    p = Camps().p
    assert p(meta, short, medium) == pytest.approx(2 / 3)
    assert p(meta, medium, long) == pytest.approx(2 / 3)
    assert p(meta, long, short) == pytest.approx(2 / 3)
    for a, b in itertools.permutations((short, medium, long), 2):
        assert p(meta, a, b) + p(meta, b, a) == pytest.approx(1)


def test_members_of_the_camps_vote_like_the_population() -> None:
    groups = Groups.of(
        Group(
            group.prompt,
            tuple(Completion(posts.render_summary(facts[:k])) for k in (1, 3)),
        )
        for group in TASK.prompts("preference", 900, Seed(0))
        for facts in [posts.told_targets(group.prompt.meta)]
    )
    assert share(Camps(), groups) == pytest.approx(2 / 3, abs=0.05)


def test_truth_drifts() -> None:
    groups = pairs(50)
    still = [Drifting(kind=kind, flips=0.0) for kind in ("rotation", "prompts")]
    assert all(share(judge, groups) == 1.0 for judge in still)
    assert share(Drifting(kind="rotation", round=8, flips=0.0), groups) == 0.0
    good, short = (c.text for c in groups[0].completions)
    before, after = (Drifting(kind="flip", round=r, flips=0.0) for r in (2, 3))
    meta = groups[0].prompt.meta
    assert before.worth(meta, good) - before.worth(meta, short) < after.worth(
        meta, good
    ) - after.worth(meta, short)


def test_mistakes_are_explained() -> None:
    with pytest.raises(ConfigError, match="flips"):
        Annotator(flips=0.9)
    with pytest.raises(ConfigError, match="three ways"):
        Drifting(kind="slow")  # type: ignore[arg-type]
    with pytest.raises((DataError, JudgeError), match="two by two"):
        list(Annotator()([Group(TASK.prompts("sft", 1, Seed(0))[0].prompt)]))
    with pytest.raises((DataError, JudgeError), match="facts"):
        list(Truth()([Group(Prompt("a", "b"))]))


def test_a_task_whose_taste_moves_has_people_and_truth_of_the_same_round():
    sizes = Sizes(demonstrations=4, pairs=4, held_out=2, prompts=4, evaluation=4, flips=0.0)
    task = load_task("micro-flip", sizes)
    assert isinstance(task.annotator, Drifting)
    assert isinstance(task.truth, DriftingTruth)
    texts = ("ann cooks .", "ann cooks , ann cooks , ann cooks , ann cooks , ann cooks .")
    said = [replace(g, completions=tuple(Completion(t) for t in texts)) for g in task.evaluation]
    for t in (0, 5):
        votes = list(task.annotator.at_round(t)(said))
        scores = list(task.truth.at_round(t)(said))
        for vote, score in zip(votes, scores, strict=True):
            assert score.scores is not None
            assert vote.preferences[0].p == float(score.scores[0] > score.scores[1])
    early, late = (next(task.truth.at_round(t)(said)).scores for t in (0, 5))
    assert early is not None
    assert late is not None
    assert early[0] - early[1] > late[0] - late[1]


def test_everybody_who_is_asked_for_labels_only_compares():
    few = Sizes(demonstrations=2, pairs=2, held_out=2, prompts=2, evaluation=2)
    for name in MICRO:
        annotator = load_task(name, few).annotator
        assert annotator is not None
        assert only_compares(annotator), name


def test_reports_say_who_gave_the_labels():
    """A sentence of their own for all people who are not the annotator of `micro`."""
    people = {name: describe_people(name, Sizes(pairs=77, flips=0.1)) for name in TASKS}
    assert all("77 comparisons" in said and "10%" in said for said in people.values())
    alike = {name for name, said in people.items() if said == people["micro"]}
    assert alike == {"micro", "micro-shared", "micro-dialogue", "micro-arithmetic"}


def test_a_size_that_nobody_reads_is_refused():
    with pytest.raises(ConfigError, match="cyclic") as caught:
        load_task("micro", Sizes(cyclic=0.5))
    assert "micro-tastes" in caught.value.do

"""The world in which agreement misleads: demonstrations that share their inventions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tandem.data.groups import Groups
from tandem.data.record import Completion
from tandem.errors import ConfigError
from tandem.judges.agreement import Agreement
from tandem.operators import synthetic_pairs
from tandem.rng import Seed
from tandem.tasks import TASKS, Sizes
from tandem.tasks.load import MICRO, load_task
from tandem.tasks.micro import Micro, SameFacts
from tandem.tasks.micro.annotators import known_facts
from tandem.tasks.micro.posts import shared_invention, told_targets, write_summary
from tandem.tasks.micro.skills import DEMONSTRATION
from tandem.tasks.micro.truth import summary_claims, true_worth

SIZES = Sizes(demonstrations=600, pairs=2, held_out=1, prompts=1, evaluation=2)


def test_demonstrations_tell_facts_with_one_wrong_value_a_kind():
    """Nine in ten facts, and one and the same value for nearly all facts of a kind."""
    world = load_task("micro-shared", SIZES, Seed(0))
    told: list[bool] = []
    seen: dict[str, list[str]] = {}
    for g in world.demonstrations:
        said = summary_claims(g.completions[0].text)[0]
        for fact in told_targets(known_facts(g)):
            told.append(shared_invention(fact) in said)
            seen.setdefault(fact[1], []).append(shared_invention(fact)[2])
            assert shared_invention(fact) != fact
    assert np.mean(told) == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / len(told)))
    for values in seen.values():
        assert max(map(values.count, set(values))) > 0.85 * len(values)


def test_the_majority_of_such_writers_is_wrong():
    """What SPG would learn: right of diverse inventions, wrong of shared ones."""
    right = {name: majority(MICRO[name]) for name in ("micro", "micro-shared")}
    assert right["micro"] > 0.9
    assert right["micro-shared"] < 0.3


def majority(task: Micro) -> float:
    """How often SPG's label is right among ten demonstrations a prompt (one writer, ten times)."""
    quality = replace(DEMONSTRATION, shared=task.shared)
    groups = (
        replace(g, completions=tuple(
            Completion(write_summary(known_facts(g), Seed(k).at(g.id).rng(), quality))
            for k in range(10)
        ))
        for g in task.prompts("unlabelled", 150, Seed(0))
    )  # fmt: skip
    pairs = Groups.of(synthetic_pairs(winner="uniform")(Agreement(SameFacts())(groups), Seed(0)))
    assert len(pairs) > 30
    worth = [g.scores for g in task.truth()(pairs) if g.scores is not None]
    return float(np.mean([(np.sign(won - lost) + 1) / 2 for won, lost in worth]))


def test_all_else_is_the_micro_world():
    plain, shared = (load_task(name, SIZES, Seed(0)) for name in ("micro", "micro-shared"))
    assert "micro-shared" in TASKS
    assert shared.demonstrations.prompts().hash != plain.demonstrations.prompts().hash
    one, two = Micro(), Micro(shared=0.9)
    asked = one.prompts("sft", 50, Seed(1))
    assert two.prompts("sft", 50, Seed(1)).hash == asked.hash
    assert two.references(asked).hash == one.references(asked).hash
    worth = [
        np.mean(
            [
                true_worth(known_facts(g), g.completions[0].text)
                for g in task.demonstrations(300, Seed(1))
            ]
        )
        for task in (one, two)
    ]
    assert worth[1] < worth[0] - 0.5


@pytest.mark.parametrize("bad", [{"shared": 1.2}, {"skill": "dialogue", "shared": 0.5}])
def test_what_it_cannot_be_is_refused(bad):
    with pytest.raises(ConfigError, match="shared"):
        Micro(**bad)

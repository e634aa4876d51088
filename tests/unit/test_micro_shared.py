"""The world in which agreement misleads: demonstrations that share one invention."""

from __future__ import annotations

import numpy as np
import pytest

from tandem.errors import ConfigError
from tandem.rng import Seed
from tandem.tasks import TASKS, Sizes
from tandem.tasks.micro import Micro
from tandem.tasks.micro.annotators import known
from tandem.tasks.micro.posts import SHARED_KIND, misled, targets
from tandem.tasks.micro.truth import claims, truth
from tandem.tasks.worlds import from_task

SIZES = Sizes(demonstrations=600, pairs=2, held_out=1, prompts=1, evaluation=2)


def test_demonstrations_tell_one_kind_of_fact_with_one_wrong_value():
    """Seven in ten of the facts of that kind, one and the same value nearly always."""
    world = from_task("micro-shared", SIZES, Seed(0))
    told, seen = [], []
    for g in world.demonstrations:
        for fact in targets(known(g)):
            if fact[1] == SHARED_KIND:
                said = claims(g.completions[0].text)[0]
                told.append(misled(fact) in said)
                seen += [c[2] for c in said if c == misled(fact)]
    assert len(told) > 200
    assert np.mean(told) == pytest.approx(0.7, abs=4 * np.sqrt(0.21 / len(told)))
    assert max(map(seen.count, set(seen))) > 0.85 * len(seen)
    assert misled(("i", SHARED_KIND, seen[0]))[2] != seen[0]


def test_all_else_is_the_micro_world():
    plain, shared = (from_task(name, SIZES, Seed(0)) for name in ("micro", "micro-shared"))
    assert "micro-shared" in TASKS
    assert shared.demonstrations.prompts().hash != plain.demonstrations.prompts().hash
    one, two = Micro(), Micro(shared=0.7)
    asked = one.prompts("sft", 50, Seed(1))
    assert two.prompts("sft", 50, Seed(1)).hash == asked.hash
    assert two.references(asked).hash == one.references(asked).hash
    worth = [
        np.mean([truth(known(g), g.completions[0].text) for g in task.demonstrations(300, Seed(1))])
        for task in (one, two)
    ]
    assert worth[1] < worth[0] - 0.5


@pytest.mark.parametrize("bad", [{"shared": 1.2}, {"skill": "dialogue", "shared": 0.5}])
def test_what_it_cannot_be_is_refused(bad):
    with pytest.raises(ConfigError, match="shared"):
        Micro(**bad)

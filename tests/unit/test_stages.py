"""The verbs: what they do to groups, without a model."""

import numpy as np
import pytest

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import ConfigError, DataError
from tandem.rng import Seed
from tandem.stages.combining import mix

N = 400


def by(author: str, n: int = 2, prompts: int = N) -> Groups:
    return Groups.of(
        Group(Prompt(str(k), "?"), tuple(Completion(f"{i}", author=author) for i in range(n)))
        for k in range(prompts)
    )


def authors(group: Group) -> list[str]:
    return [c.author for c in group.completions]


def test_a_mixture_takes_each_completion_from_a_policy_by_its_share() -> None:
    mixed = Groups.of(mix([by("sft"), by("base"), by("early")], (0.5, 0.3, 0.2), n=2, seed=Seed(0)))
    drawn = [author for group in mixed for author in authors(group)]
    for author, share in (("sft", 0.5), ("base", 0.3), ("early", 0.2)):
        sd = np.sqrt(share * (1 - share) / len(drawn))
        assert abs(drawn.count(author) / len(drawn) - share) < 4 * sd
    assert all([c.text for c in group.completions] == ["0", "1"] for group in mixed)
    whole = Groups.of(mix([by("sft"), by("base")], (1.0, 0.0), n=2, seed=Seed(0)))
    assert {author for group in whole for author in authors(group)} == {"sft"}


def test_what_a_prompt_gets_depends_on_that_prompt_alone() -> None:
    policies = [by("sft"), by("base")]
    forth = Groups.of(mix(policies, (0.5, 0.5), n=2, seed=Seed(0)))
    back = Groups.of(mix([p[::-1] for p in policies], (0.5, 0.5), n=2, seed=Seed(0)))
    assert [(g.id, authors(g)) for g in back[::-1]] == [(g.id, authors(g)) for g in forth]


def test_mixtures_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 policies and 2 shares"):
        list(mix([by("sft")], (0.5, 0.5), n=2, seed=Seed(0)))
    with pytest.raises(DataError, match=r"hold \[2, 1\] completions"):
        list(mix([by("sft"), by("base", n=1)], (0.5, 0.5), n=2, seed=Seed(0)))
    other = by("base", prompts=N)[1:] + by("base")[:1]
    with pytest.raises(DataError, match="the groups"):
        list(mix([by("sft"), other], (0.5, 0.5), n=2, seed=Seed(0)))

"""An operator applied as a stage, and what is logged of what it kept."""

from __future__ import annotations

from collections.abc import Iterator

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.operators import Operator
from tandem.rng import Seed
from tandem.runs.events import Events


def select(groups: Groups, operator: Operator, *, seed: Seed, events: Events) -> Iterator[Group]:
    """Apply an operator: it reads what judges wrote and opens no model.

    How much is left is logged: prompts, completions, and completions a prompt over all prompts
    that there were.
    """
    prompts, completions, pairs = 0, 0, 0
    for group in operator(groups, seed):
        prompts, completions = prompts + 1, completions + len(group)
        pairs += len(group.preferences)
        yield group
    before = sum(len(group) for group in groups)
    events.log(
        "selected",
        prompts=prompts,
        completions=completions,
        pairs=pairs,
        of_prompts=len(groups),
        of_completions=before,
        per_prompt=completions / max(1, len(groups)),
        text=f"{completions} of {before} completions left, of {prompts} of {len(groups)} prompts",
    )

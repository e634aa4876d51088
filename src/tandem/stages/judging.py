"""Stages that write columns into groups: judges' scores and preferences, a policy's log-probs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.judges import Judge, open_judge
from tandem.machine import Machine
from tandem.models.forward import with_logprobs
from tandem.models.opening import open_policy
from tandem.models.tokenise import tokenise
from tandem.models.tokenizers import load_tokenizer
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Events, Silent


def judge(
    groups: Groups, *judges: Judge, machine: Machine, events: Events = Silent()
) -> Iterator[Group]:
    """Stage: let judges write scores, preferences or clusters into groups, one after another."""
    stream: Iterable[Group] = groups
    hearing = [open_judge(each, machine) for each in judges]
    for each in hearing:
        stream = each(stream)
    for done, group in enumerate(stream, 1):
        yield group
        if done % 64 == 0 or done == len(groups):
            events.progress(done, len(groups), "judged")
    for each in hearing:
        if hasattr(each, "describe_cost") and (told := each.describe_cost()):  # type: ignore[attr-defined]
            events.log("asked", **told)


def logprobs(
    policy: Checkpoint, groups: Groups, *, temperature: float = 1.0, machine: Machine
) -> Iterator[Group]:
    """Stage: write each completion's log-probabilities under a policy, in that policy's tokens.

    Args:
        policy: whose probabilities.
        groups: prompts with completions.
        temperature: logits are divided by it, above 0: that at which completions were sampled.
    """
    trunk = open_policy(policy.path, replace(machine, lora=None))
    trunk.temperature = temperature
    own = tokenise(groups, load_tokenizer(policy.path))
    yield from with_logprobs(trunk, own, machine.tokens)

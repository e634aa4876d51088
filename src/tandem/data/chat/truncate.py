"""What happens to what does not fit: dropped and counted, or cut where that was asked for.

A pair is never cut on one side only. With `keep-start`, if one completion of a compared group is
cut, all are cut to the same length; with `keep-end`, the prompt they share loses its start.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np

from tandem.data.record import Completion, Group

Truncation = Literal["drop", "keep-start", "keep-end"]
TRUNCATIONS: tuple[Truncation, ...] = ("drop", "keep-start", "keep-end")


@dataclass
class Counts:
    """What became of groups, completions and preferences.

    Attributes:
        groups: groups seen.
        kept: groups that came through.
        dropped: reason -> groups dropped.
        completions: completions seen.
        completions_kept: completions that came through.
        completions_dropped: reason -> completions dropped out of groups that were kept.
        preferences: preferences seen.
        preferences_kept: preferences that came through.
        equal: preferences between answers that were equal after a cut; they are dropped.
        cut: groups in which tokens were cut off (`keep-start`, `keep-end`).
        merged: completions of which the tokenizer joined the first letters with the prompt's
            last; their pieces were encoded apart, as a sampler sees them.
        transcripts: groups of messages read as Human/Assistant text, for want of a template.
        plain: groups of plain text to which the template was not applied.
        tools_unread: groups with tools that the template does not write into the prompt.
    """

    groups: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    completions: int = 0
    completions_kept: int = 0
    completions_dropped: dict[str, int] = field(default_factory=dict[str, int])
    preferences: int = 0
    preferences_kept: int = 0
    equal: int = 0
    cut: int = 0
    merged: int = 0
    transcripts: int = 0
    plain: int = 0
    tools_unread: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of another part of the data."""
        for name, value in asdict(other).items():
            mine = getattr(self, name)
            if isinstance(value, int):
                setattr(self, name, mine + value)
            else:
                for reason, n in value.items():
                    mine[reason] = mine.get(reason, 0) + n

    def lines(self) -> list[str]:
        """Return the counts as plain lines."""
        out = [f"{self.kept} of {self.groups} groups kept, {self.groups - self.kept} dropped"]
        out += [f"dropped {n} groups: {why}" for why, n in self.dropped.items()]
        if self.completions != self.completions_kept:
            out.append(f"{self.completions_kept} of {self.completions} completions kept")
        out += [f"dropped {n} completions: {why}" for why, n in self.completions_dropped.items()]
        if self.preferences != self.preferences_kept:
            out.append(f"{self.preferences_kept} of {self.preferences} preferences kept")
        remarks = {
            "preferences were dropped: their answers are equal after the cut": self.equal,
            "groups were cut to fit": self.cut,
            "completions were encoded apart from a prompt that the tokenizer joins them to":
                self.merged,
            "groups of messages were read as Human/Assistant text (there is no chat template)":
                self.transcripts,
            "groups are plain text, to which the chat template was not applied": self.plain,
            "groups offer tools that the chat template does not write into the prompt":
                self.tools_unread,
        }  # fmt: skip
        return out + [f"{n} {what}" for what, n in remarks.items() if n]


def fit_to_length(
    group: Group, bos: int, limit: int | None, how: Truncation, counts: Counts
) -> Group | None:
    """Return the group with what fits into `limit` tokens, or None; counts what is lost."""
    counts.groups += 1
    counts.completions += len(group)
    counts.preferences += len(group.preferences)
    kept, reason = _fitted(group, bos, limit, how, counts)
    if kept is None:
        counts.dropped[reason] = counts.dropped.get(reason, 0) + 1
        return None
    counts.kept += 1
    counts.completions_kept += len(kept)
    counts.preferences_kept += len(kept.preferences)
    return kept


def _fitted(
    group: Group, bos: int, limit: int | None, how: Truncation, counts: Counts
) -> tuple[Group | None, str]:
    if limit is None:
        return group, ""
    if how == "keep-end":
        cut = _cut_prompt(group, bos, limit)
    elif how == "keep-start":
        cut = _cut_completions(group, limit)
    else:
        cut = group
    if how == "keep-start" and cut is not group:
        apart = tuple(p for p in cut.preferences if not _equal(cut, p.i, p.j))
        counts.equal += len(cut.preferences) - len(apart)
        if cut.preferences and not apart:
            return None, f"the answers are equal in their first {limit} tokens"
        cut = replace(cut, preferences=apart)
    prompt = len(cut.prompt.tokens)
    if prompt >= limit:
        return None, f"the prompt alone fills {limit} tokens"
    fitting = [k for k, c in enumerate(cut.completions) if 0 < len(c.tokens) <= limit - prompt]
    kept = cut.keep(fitting)
    reason = f"longer than {limit} tokens"
    if not _usable(group, kept):
        return None, reason if not fitting else f"{reason}: too few completions are left"
    lost = len(group) - len(kept)
    if lost:
        counts.completions_dropped[reason] = counts.completions_dropped.get(reason, 0) + lost
    counts.cut += cut is not group
    return kept, ""


def _equal(group: Group, i: int, j: int) -> bool:
    first, second = group.completions[i].tokens, group.completions[j].tokens
    return np.array_equal(first, second)


def _usable(before: Group, after: Group) -> bool:
    """Compared answers stay compared; of others, one alone is worth keeping."""
    if before.preferences and not after.preferences:
        return False
    return len(after) >= min(len(before), 1)


def _cut_prompt(group: Group, bos: int, limit: int) -> Group:
    """Drop tokens at the prompt's start (behind BOS) until the longest completion fits."""
    tokens = group.prompt.tokens
    sizes = [len(c.tokens) for c in group.completions if len(c.tokens) < limit - bos]
    room = limit - max(sizes, default=1)
    if len(tokens) <= room:
        return group
    kept = np.concatenate([tokens[:bos], tokens[len(tokens) - (room - bos) :]])
    return replace(group, prompt=replace(group.prompt, tokens=kept))


def _cut_completions(group: Group, limit: int) -> Group:
    """Drop tokens at the completions' ends; those that are compared end at the same length."""
    room = limit - len(group.prompt.tokens)
    sizes = [len(c.tokens) for c in group.completions]
    if room <= 0 or max(sizes, default=0) <= room:
        return group
    if group.preferences:
        room = min(room, min(sizes) - 1)
    return replace(group, completions=tuple(_cut(c, room) for c in group.completions))


def _cut(completion: Completion, room: int) -> Completion:
    if len(completion.tokens) <= room:
        return completion
    mask = None if completion.mask is None else completion.mask[:room]
    return replace(completion, tokens=completion.tokens[:room], mask=mask, stopped=False)

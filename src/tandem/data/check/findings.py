"""What `check` counts, what it makes of the counts, and how it prints them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tandem.data.chat.transcripts import prompt_key
from tandem.data.formats.reader import Notes
from tandem.data.groups import Groups
from tandem.data.record import Group

if TYPE_CHECKING:
    from tandem.data.check.check import Check

BINS, BAR = 10, 40
LENGTH_EDGE, LOST_SHARE = 0.1, 0.05


@dataclass(frozen=True)
class Facts:
    """Counts over the groups.

    Attributes:
        groups: groups.
        completions: completions.
        preferences: preferences, ties included.
        scored: groups with scores.
        largest: completions of the largest group.
        binary: True if all scores are 0 or 1.
        duplicates: groups that repeat an earlier group's prompt and answers.
        contradictory: preferences that an earlier one of the same two answers contradicts.
        ties: preferences with p = 1/2.
        decided: preferences with a winner.
        chosen_longer: share of the decided in which the winner has more characters.
        longest_wins: accuracy of "the longest answer wins" on the decided; equal lengths half.
    """

    groups: int = 0
    completions: int = 0
    preferences: int = 0
    scored: int = 0
    largest: int = 0
    binary: bool = True
    duplicates: int = 0
    contradictory: int = 0
    ties: int = 0
    decided: int = 0
    chosen_longer: float | None = None
    longest_wins: float | None = None


@dataclass(frozen=True)
class Lengths:
    """Lengths of prompt + completion.

    Attributes:
        unit: `tokens` or `characters`.
        limit: the context asked about, in tokens.
        quantiles: minimum, median, 95 %, maximum.
        edges: [BINS + 1] borders of the histogram.
        counts: [BINS] completions in each bin.
        too_long: completions longer than the limit.
        groups_dropped: groups that truncation `drop` would leave out.
        ends: last token -> completions that end in it, the five most frequent.
        double_bos: prompts that begin with two BOS tokens.
        inner_eos: completions that hold an EOS before their end, because the text spells it.
        plain: groups of plain text although the tokenizer has a chat template.
        transcripts: groups of messages read as transcripts, for want of a template.
        refused: reason -> groups that could not be rendered.
    """

    unit: str
    limit: int | None
    quantiles: tuple[int, int, int, int]
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    too_long: int = 0
    groups_dropped: int = 0
    ends: dict[str, int] = field(default_factory=dict[str, int])
    double_bos: int = 0
    inner_eos: int = 0
    plain: int = 0
    transcripts: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def truncated(self) -> float:
        """Share of completions that do not fit."""
        return self.too_long / max(1, sum(self.counts))

    @classmethod
    def of(cls, sizes: Sequence[int], unit: str, limit: int | None = None) -> Lengths:
        """Count sizes into a histogram."""
        counts, edges = np.histogram(sizes, bins=BINS)
        low, middle, high, top = (int(np.quantile(sizes, q)) for q in (0, 0.5, 0.95, 1))
        return cls(
            unit,
            limit,
            (low, middle, high, top),
            tuple(int(x) for x in np.ceil(edges)),
            tuple(int(x) for x in counts),
            0 if limit is None else sum(s > limit for s in sizes),
        )


def count(groups: Groups) -> Facts:
    """Count duplicates, contradictions and the length baseline in one pass."""
    n = dict.fromkeys(("completions", "preferences", "scored", "duplicates", "contradictory"), 0)
    seen: set[bytes] = set()
    winners: dict[bytes, bool] = {}
    gaps: list[int] = []
    largest, binary = 0, True
    for group in groups:
        key = _hash([prompt_key(group.prompt), *sorted(c.text for c in group.completions)])
        n["duplicates"] += key in seen
        seen.add(key)
        n["completions"] += len(group)
        n["preferences"] += len(group.preferences)
        n["scored"] += group.scores is not None
        n["contradictory"] += _contradictions(group, winners)
        largest = max(largest, len(group))
        if group.scores is not None:
            binary = binary and bool(np.isin(group.scores, (0, 1)).all())
        gaps += _gaps(group)
    signs = np.sign(gaps)
    return Facts(
        groups=len(groups),
        largest=largest,
        binary=binary,
        ties=n["preferences"] - len(gaps),
        decided=len(gaps),
        chosen_longer=float((signs > 0).mean()) if gaps else None,
        longest_wins=float((signs > 0).mean() + 0.5 * (signs == 0).mean()) if gaps else None,
        **n,
    )


def _gaps(group: Group) -> list[int]:
    """Characters by which the winner of each decided preference is longer."""
    sizes = [len(c.text) for c in group.completions]
    return [sizes[v.winner] - sizes[v.loser] for v in group.preferences if v.p != 0.5]


def _contradictions(group: Group, winners: dict[bytes, bool]) -> int:
    found = 0
    prompt = prompt_key(group.prompt)
    for vote in group.preferences:
        if vote.p == 0.5:
            continue
        better, worse = group.completions[vote.winner].text, group.completions[vote.loser].text
        first = better < worse
        key = _hash([prompt, *sorted((better, worse))])
        found += winners.setdefault(key, first) != first
    return found


def _hash(texts: Iterable[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=12)
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def methods(facts: Facts) -> tuple[str, ...]:
    """Return methods that fit data of this shape, each with the reason."""
    if facts.preferences and facts.largest > 2:
        return (
            "reward: K-way comparisons; keep all pairs of a prompt in one step",
            "dpo: on the pairs; grades become soft labels",
            "sft: on the best completion of each prompt",
        )
    if facts.preferences:
        return (
            "dpo: pairs, the cheapest start; run sft on the chosen answers first",
            "reward: pairs, then best-of-n, rso or ppo with prompts of your own",
            "dpo with loss robust or ipo: where labels are noisy",
        )
    if facts.scored and facts.binary:
        return ("kto: single answers with a good-or-bad label", "sft: on the good answers")
    if facts.scored:
        return ("raft, rest: scored completions; fit on the best", "sft: on the best completions")
    if facts.completions:
        return (
            "sft: demonstrations; nothing is compared yet, so sample pairs and label them next",
        )
    return ("best_of_n, ppo, grpo, rso, online: prompts alone need a reward model or a judge",)


def errors(overlap: dict[str, int], lengths: Lengths) -> list[str]:
    """Return what must be mended before training."""
    out = [
        f"{n} prompts are also in {name}: an evaluation on it would be contaminated"
        for name, n in overlap.items()
        if n
    ]
    if lengths.limit is not None and lengths.too_long == sum(lengths.counts):
        out.append(f"nothing fits into {lengths.limit} tokens")
    if lengths.double_bos:
        out.append(f"{lengths.double_bos} prompts begin with two BOS tokens")
    return out


def warnings(notes: Notes, facts: Facts, lengths: Lengths) -> list[str]:
    """Return what should be looked at."""
    longest = facts.longest_wins or 0.0
    refused = sum(lengths.refused.values())
    rules = {
        f"columns {', '.join(f'`{c}`' for c in notes.unread)} look like judgments and are not "
        "read: is another column missing or misspelt?": notes.unread,
        f"{facts.duplicates} groups repeat an earlier prompt with the same answers":
            facts.duplicates,
        f"{facts.contradictory} preferences contradict an earlier one of the same two answers":
            facts.contradictory,
        f"{notes.dropped.get('identical answers', 0)} pairs have identical answers (dropped)":
            "identical answers" in notes.dropped,
        f"{notes.dropped.get('empty answer', 0) + notes.empty_completions} answers are empty "
        "(dropped)": "empty answer" in notes.dropped or notes.empty_completions,
        f"{lengths.truncated:.1%} of completions do not fit into {lengths.limit} tokens; "
        f"{lengths.groups_dropped} groups would be dropped": lengths.truncated > LOST_SHARE,
        f"length alone is right in {max(longest, 1 - longest):.1%} of the pairs (the "
        f"{'longest' if longest > 0.5 else 'shortest'} wins): a reward model can score that by "
        "counting": facts.decided and abs(longest - 0.5) > LENGTH_EDGE,
        f"{lengths.inner_eos} completions hold an EOS before their end: their text spells it, and "
        "a policy would learn to go on after stopping": lengths.inner_eos,
        f"{lengths.plain} groups are plain text, to which the chat template is not applied; "
        "give messages, or use `tandem.data.formats.as_chat`": lengths.plain,
        f"{lengths.transcripts} groups of messages are read as Human/Assistant text, because "
        "the tokenizer has no chat template": lengths.transcripts,
        f"{refused} groups could not be rendered: {'; '.join(lengths.refused)}": refused,
    }  # fmt: skip
    return [text for text, holds in rules.items() if holds]


def as_json(check: Check) -> str:
    """Return a check as JSON, without colours."""
    values = {k: v for k, v in asdict(check).items() if k != "coloured"}
    values["lengths"]["truncated"] = check.lengths.truncated
    return json.dumps({**values, "ok": check.ok}, indent=1, ensure_ascii=False)


def as_text(check: Check, *, colour: bool) -> str:
    """Return a check as lines for a terminal."""
    parts = [
        f"{check.source}\nformat {check.format}: {check.why}",
        "\n".join(check.notes.lines()),
        _shape(check.facts),
        _histogram(check.lengths),
        *(
            f"example {k}\n{e}"
            for k, e in enumerate(check.coloured if colour else check.examples, 1)
        ),
        *([_overlaps(check.overlap)] if check.overlap else []),
        "methods that fit\n" + "\n".join(f"  {m}" for m in check.methods),
        "\n".join([f"ERROR {e}" for e in check.errors] + [f"warning: {w}" for w in check.warnings])
        or "no errors, no warnings",
    ]
    return "\n\n".join(parts)


def _shape(facts: Facts) -> str:
    lines = [
        f"{facts.groups} prompts, {facts.completions} completions (at most {facts.largest} a "
        f"prompt), {facts.preferences} preferences ({facts.ties} ties), {facts.scored} with scores",
        f"duplicates {facts.duplicates}, contradictory pairs {facts.contradictory}",
    ]
    if facts.decided:
        lines.append(
            f"chosen is longer in {facts.chosen_longer:.1%}; 'the longest answer wins' scores "
            f"{facts.longest_wins:.1%} of {facts.decided} pairs"
        )
    return "\n".join(lines)


def _histogram(lengths: Lengths) -> str:
    low, middle, high, top = lengths.quantiles
    lines = [
        f"prompt + completion in {lengths.unit}: min {low}, median {middle}, 95% {high}, max {top}"
    ]
    most = max(lengths.counts)
    for start, end, n in zip(lengths.edges[:-1], lengths.edges[1:], lengths.counts, strict=True):
        lines.append(f"{start:>8} -{end:>7} {n:>8} {'#' * round(BAR * n / most)}")
    if lengths.limit is not None:
        lines.append(
            f"longer than {lengths.limit}: {lengths.too_long} completions "
            f"({lengths.truncated:.1%}); {lengths.groups_dropped} groups would be dropped"
        )
    if lengths.ends:
        ends = ", ".join(f"{n} in {token!r}" for token, n in lengths.ends.items())
        lines.append(f"completions end: {ends} (trained on)")
    return "\n".join(lines)


def _overlaps(overlap: dict[str, int]) -> str:
    return "\n".join(f"prompts shared with {name}: {n}" for name, n in overlap.items())

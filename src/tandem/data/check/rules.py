"""What the facts about data mean: errors, warnings, and the methods that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tandem.data.formats.reader import ReadingNotes

if TYPE_CHECKING:
    pass
from tandem.data.check.facts import DataFacts, Lengths

LENGTH_EDGE, LOST_SHARE = 0.1, 0.05


def fitting_methods(facts: DataFacts) -> tuple[str, ...]:
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
    return (
        "direct: prompts alone, whose answers a language model scores",
        "grpo with a reward that you write in Python: examples/grpo_with_your_reward.py",
        "the other methods learn from comparisons: `tandem label serve` asks people for them",
    )


def data_errors(overlap: dict[str, int], lengths: Lengths) -> list[str]:
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


def data_warnings(notes: ReadingNotes, facts: DataFacts, lengths: Lengths) -> list[str]:
    """Return what should be looked at."""
    longest = facts.longest_wins or 0.0
    refused = sum(lengths.refused.values())
    rules = {
        f"columns {', '.join(f'`{c}`' for c in notes.unread)} look like judgments or a prompt and "
        "are not read: is another column missing or misspelt?": notes.unread,
        f"{notes.repeated_ids} rows have the id of an earlier row with another prompt: ids seem "
        "to start again": notes.repeated_ids,
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
        f"{lengths.endless} answers end in a token that ends no sampling (sampling ends at "
        f"{', '.join(lengths.stops)}): a policy trained on them would write on": lengths.endless,
        f"{lengths.inner_eos} completions hold an EOS before their end: their text spells it, and "
        "a policy would learn to go on after stopping": lengths.inner_eos,
        f"{lengths.plain} groups are plain text, to which the chat template is not applied; "
        "write prompts as messages (role, content) where it should be": lengths.plain,
        f"{lengths.transcripts} groups of messages are read as Human/Assistant text, because "
        "the tokenizer has no chat template": lengths.transcripts,
        f"{refused} groups could not be rendered: {'; '.join(lengths.refused)}": refused,
    }  # fmt: skip
    return [text for text, holds in rules.items() if holds]

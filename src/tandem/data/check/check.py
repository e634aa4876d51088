"""`tandem data check`: examine data before anything is trained on it.

What the format is and why, three examples token by token, lengths and what will not fit,
duplicates, contradictions, prompts shared between splits, how far "the longest answer wins"
gets, and which methods fit data of this shape.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tandem.data.chat import encode_groups, render_group
from tandem.data.chat.encode import Encoded
from tandem.data.chat.ends import end_tokens
from tandem.data.chat.show import judgment_line
from tandem.data.chat.transcripts import prompt_key
from tandem.data.chat.truncate import Counts, fit_to_length
from tandem.data.check import facts as findings
from tandem.data.check.facts import DataFacts, Lengths
from tandem.data.check.rules import data_errors, data_warnings, fitting_methods
from tandem.data.check.text import check_json, check_text
from tandem.data.formats.options import ReadingOptions
from tandem.data.formats.reader import ReadingNotes
from tandem.data.groups import Groups
from tandem.data.record import Group

EXAMPLES = 3
SHOWN_CHARACTERS = 400


@dataclass(frozen=True)
class DataCheck:
    """The result of a check: format, facts, warnings and errors, as an object, text or JSON.

    Attributes:
        source: what was looked at.
        format: the detected format.
        why: the reason.
        notes: rows read, kept and dropped.
        facts: duplicates, contradictions and the length baseline.
        lengths: of prompt + completion, in tokens (or characters without a tokenizer).
        overlap: other split or file -> prompts that are in both.
        examples: three groups, without colours: token by token where there is a tokenizer.
        coloured: the same with ANSI colours.
        methods: methods that fit this shape of data, each with the reason.
        errors: what must be mended before training.
        warnings: what should be looked at.
    """

    source: str
    format: str
    why: str
    notes: ReadingNotes
    facts: DataFacts
    lengths: Lengths
    overlap: dict[str, int]
    examples: tuple[str, ...]
    coloured: tuple[str, ...]
    methods: tuple[str, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if there is no error; the command line's exit status hangs on it."""
        return not self.errors

    def text(self, *, colour: bool = False) -> str:
        """Return the findings for a terminal."""
        return check_text(self, colour=colour)

    def json(self) -> str:
        """Return the findings as JSON."""
        return check_json(self)


def check_data(
    source: str | Path,
    tokenizer: Any = None,
    max_length: int | None = None,
    *,
    reading: ReadingOptions = ReadingOptions(),
    against: Sequence[str | Path] = (),
    named_ends: Sequence[int] = (),
) -> DataCheck:
    """Examine a data source.

    Args:
        source: as for `read`.
        tokenizer: a Hugging Face tokenizer; without one, lengths are in characters.
        max_length: the model's context in tokens, to say what will not fit.
        reading: columns, split, format and limit; other files have the same columns.
        against: other files (an evaluation set, a second split) that may share no prompt.
        named_ends: end tokens that the model's generation settings name.

    Raises:
        DataError: the source cannot be read, or no row of it can be used.
        ModelError: the tokenizer's template cannot be trained on.
    """
    data = reading.read(source)
    beside = ReadingOptions(columns=reading.columns, format=reading.format)
    others = {str(other): beside.read(other).groups for other in against}
    for name in data.splits:
        others[name] = replace(beside, split=name).read(source).groups
    facts = findings.count_facts(data.groups)
    encoded = None if tokenizer is None else encode_groups(data.groups, tokenizer, max_length=None)
    shown = data.groups if encoded is None else encoded.groups
    lengths = _lengths(shown, max_length, encoded, tokenizer, named_ends)
    overlap = _overlap(data.groups, others)
    errors = data_errors(overlap, lengths)
    return DataCheck(
        source=str(source),
        format=data.format,
        why=data.why,
        notes=data.notes,
        facts=facts,
        lengths=lengths,
        overlap=overlap,
        examples=tuple(_example(g, tokenizer, colour=False) for g in _some(shown)),
        coloured=tuple(_example(g, tokenizer, colour=True) for g in _some(shown)),
        methods=fitting_methods(facts),
        errors=tuple(errors),
        warnings=tuple(data_warnings(data.notes, facts, lengths)),
    )


def _some(groups: Groups) -> list[Group]:
    last = len(groups) - 1
    return [groups[k] for k in sorted({round(last * x) for x in np.linspace(0, 1, EXAMPLES)})]


def _example(group: Group, tokenizer: Any, *, colour: bool) -> str:
    group = group.keep(range(min(2, len(group))))
    if tokenizer is not None:
        return render_group(group, tokenizer, colour=colour)
    lines = [f"-- prompt {group.id}", _short(group.prompt.text)]
    for k, completion in enumerate(group.completions):
        head = ", ".join([f"-- completion {k}", *judgment_line(group, k)])
        lines += [head, _short(completion.text)]
    return "\n".join(lines)


def _short(text: str) -> str:
    half = SHOWN_CHARACTERS // 2
    return text if len(text) <= 2 * half else f"{text[:half]} ... {text[-half:]}"


def _lengths(
    groups: Groups,
    limit: int | None,
    encoded: Encoded | None,
    tokenizer: Any,
    named: Sequence[int],
) -> Lengths:
    if encoded is None:
        sizes = Counter(
            len(g.prompt.text) + s
            for g in groups
            for s in [len(c.text) for c in g.completions] or [0]
        )
        return Lengths.of(sizes, "characters")
    sizes = Counter[int]()
    fitting = Counts()
    ends: dict[str, int] = {}
    double = inner = endless = 0
    stops = end_tokens(tokenizer, named)
    for group in groups:
        sizes.update(
            len(group.prompt.tokens) + s for s in [len(c.tokens) for c in group.completions] or [0]
        )
        fit_to_length(group, 0, limit, "drop", fitting)
        head = group.prompt.tokens[:2].tolist()
        double += len(head) == 2 and head[0] == head[1] == tokenizer.bos_token_id
        for completion in group.completions:
            last = str(tokenizer.convert_ids_to_tokens(int(completion.tokens[-1])))
            ends[last] = ends.get(last, 0) + 1
            inner += completion.turns is None and not stops.isdisjoint(
                completion.tokens[:-1].tolist()
            )
            endless += completion.stopped and int(completion.tokens[-1]) not in stops
    return replace(
        Lengths.of(sizes, "tokens", limit),
        groups_dropped=fitting.groups - fitting.kept,
        ends=dict(sorted(ends.items(), key=lambda pair: -pair[1])[:5]),
        double_bos=double,
        inner_eos=inner,
        endless=endless,
        stops=tuple(str(t) for t in tokenizer.convert_ids_to_tokens(sorted(stops))),
        plain=encoded.counts.plain,
        transcripts=encoded.counts.transcripts,
        refused=encoded.counts.dropped,
    )


def _overlap(groups: Groups, others: dict[str, Groups]) -> dict[str, int]:
    if not others:
        return {}
    mine = np.unique(_prompt_hashes(groups))
    return {
        name: len(np.intersect1d(mine, np.unique(_prompt_hashes(other)), assume_unique=True))
        for name, other in others.items()
    }


def _prompt_hashes(groups: Groups) -> array[int]:
    """Return 64 bits of every prompt: millions of them are compared in little memory."""
    return array("Q", (findings.hash_texts([prompt_key(g.prompt)]) for g in groups))

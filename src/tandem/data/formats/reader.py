"""`read`: rows of a source -> groups, with the format, the reason, and what was dropped.

A row that carries nothing (an empty answer, two identical answers) is dropped and counted; a row
that is wrong (a missing column, a score that is no number) stops the reading with its place.
Large sources stream into a Parquet file in the cache folder, named by a hash of their content,
and are memory-mapped from there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tandem.data.cached_groups import keep_groups
from tandem.data.formats.data_sources import DataSource, open_source
from tandem.data.formats.detect import PEEK, detect_format, left_over, unread_columns
from tandem.data.formats.fields import DataRow, SkipRow, shorten_text
from tandem.data.formats.label_words import LabelScale
from tandem.data.formats.own_groups import read_own_groups
from tandem.data.formats.prompt_context import add_context, context_columns
from tandem.data.formats.prompt_ids import ID_COLUMNS, PromptIds
from tandem.data.formats.registry import FORMATS, Format
from tandem.data.formats.shaping import gather_rows, open_tasks, rename_columns
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import ConfigError, DataError
from tandem.errors.ranges import MANY, Range
from tandem.machine import cache_folder

STREAM_ABOVE_BYTES = 16 << 20
READER_VERSION = "4"
"""Part of the cache's key: raised when a parser changes what it makes of the same rows."""

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading a row raises that holds something of a shape that nobody thought of."""


@dataclass
class ReadingNotes:
    """What became of the rows.

    Attributes:
        rows: rows seen.
        kept: groups made.
        dropped: reason -> number of rows that carried nothing.
        first: reason -> place of the first such row.
        empty_completions: empty answers left out of groups that have others.
        repeated_prompts: rows whose prompt an earlier row has; their ids end in #2, #3, ...
        repeated_ids: rows whose id an earlier row with another prompt has.
        context: column beside the prompt -> groups that it gave a system turn, turns or tools.
        left_out: reason -> parts of rows that say nothing, such as cancelled annotations.
        remarks: what was decided on the way, one sentence each.
        unread: columns that look like judgments or a prompt and that the format does not read.
        facts: other columns that are not read; they are kept beside the prompt.
    """

    rows: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    first: dict[str, str] = field(default_factory=dict[str, str])
    empty_completions: int = 0
    repeated_prompts: int = 0
    repeated_ids: int = 0
    context: dict[str, int] = field(default_factory=dict[str, int])
    left_out: dict[str, int] = field(default_factory=dict[str, int])
    remarks: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()

    def drop(self, reason: str, place: str) -> None:
        """Count one dropped row."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self.first.setdefault(reason, place)

    def note_columns(self, name: str, rows: Sequence[DataRow]) -> None:
        """Note the columns of these rows that the format does not read."""
        self.unread = unread_columns(name, rows)
        known = {*self.unread, *ID_COLUMNS}
        self.facts = tuple(c for c in left_over(name, rows) if c not in known)

    def lines(self) -> list[str]:
        """Return the counts as plain lines."""
        out = [f"{self.rows} rows read, {self.kept} kept, {sum(self.dropped.values())} dropped"]
        out += [f"dropped {n}: {why} (first: {self.first[why]})" for why, n in self.dropped.items()]
        if self.empty_completions:
            out.append(f"left out {self.empty_completions} empty completions of groups with others")
        if self.repeated_prompts:
            out.append(f"{self.repeated_prompts} rows repeat the prompt of an earlier row")
        if self.repeated_ids:
            out.append(
                f"{self.repeated_ids} rows have the id of an earlier row with another prompt; "
                "their prompts are told apart by a mark behind the id"
            )
        out += [f"left out {n}: {why}" for why, n in self.left_out.items()]
        out += [f"`{column}` is read in {n} prompts" for column, n in self.context.items()]
        if self.unread:
            out.append(f"not read: {', '.join(self.unread)}")
        if self.facts:
            out.append(f"not read, kept beside the prompt: {', '.join(self.facts)}")
        return [*out, *self.remarks]


@dataclass(frozen=True)
class DataRead:
    """What `read` made of a source.

    Attributes:
        groups: texts and messages, no tokens yet.
        format: name of the detected format.
        why: the reason it was detected, one sentence.
        notes: counts of rows kept and dropped.
        splits: names of the other splits of the same source.
    """

    groups: Groups
    format: str
    why: str
    notes: ReadingNotes
    splits: tuple[str, ...] = ()


def read_data(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    format: str | None = None,
    cache: Path | None = None,
) -> DataRead:
    """Read a data file, a folder or a hub id into groups.

    Args:
        source: path of JSONL, JSON, CSV (each plain or .gz) or Parquet, of a `datasets` folder,
            or a hub id `owner/name`.
        columns: what a format calls a column -> what the file calls it, as in
            `{"prompt": "question", "completion": "answer"}`.
        split: which split, where there are several; `train` if there is one.
        limit: read only this many rows.
        format: take this format instead of detecting it.
        cache: folder for large sources; `$TANDEM_CACHE` or `~/.cache/tandem` if not given.

    Raises:
        DataError: the source is missing or broken, its columns fit no format, a row is wrong,
            or no row can be used.
        ConfigError: the format, or the limit, is none.
    """
    if limit is not None and limit not in Range(1, MANY):
        raise ConfigError(
            f"limit = {limit}",
            f"the number of rows that are read is {Range(1, MANY)}",
            "give such a number, or leave it out to read all rows",
        )
    found = open_source(source, split)
    if found.groups is not None:
        if columns or format not in (None, "", "groups"):
            asked = f"columns = {dict(columns)}" if columns else f"format = {format!r}"
            raise ConfigError(
                f"{asked}, but {found.name} holds Tandem's own groups",
                "its columns are known, and nothing is detected",
                "leave it out",
            )
        return _own(found, limit)
    head = list(itertools.islice(_opened(found, columns), PEEK))
    if not head:
        raise DataError(
            f"{found.name} holds no rows",
            "there is nothing to detect a format from",
            "look at what wrote it",
        )
    name, why = detect_format(head, found.name, format)
    notes = ReadingNotes(remarks=found.notes)
    notes.note_columns(name, head)
    rows = itertools.islice(_opened(found, columns), limit)
    rows = gather_rows(_noting_late_columns(rows, name, head, notes), FORMATS[name].gathers)
    parsed = _groups(rows, FORMATS[name], notes, found.name)
    if found.bytes <= STREAM_ABOVE_BYTES:
        groups = Groups.of(parsed)
    else:
        key = [found.fingerprint, READER_VERSION, name, limit, sorted((columns or {}).items())]
        groups, notes = _streamed(parsed, notes, cache or cache_folder(), key)
    return DataRead(groups, name, why, notes, found.splits)


def _noting_late_columns(
    rows: Iterable[DataRow], name: str, head: list[DataRow], notes: ReadingNotes
) -> Iterator[DataRow]:
    """Yield the rows; columns that begin behind the first rows are seen too."""
    seen, examples = {c for row in head for c in row.values if row.has(c)}, list(head)
    for row in rows:
        if not row.values.keys() <= seen:
            late = {c for c in row.values if c not in seen and row.has(c)}
            if late:
                seen |= late
                examples.append(row)
                notes.note_columns(name, examples)
        yield row


def _own(found: DataSource, limit: int | None) -> DataRead:
    assert found.groups is not None
    whole = read_own_groups(found.groups, found.name)
    groups = whole[:limit] if limit else whole
    notes = ReadingNotes(rows=len(groups), kept=len(groups))
    if not len(groups):
        raise _nothing(notes, found.name)
    return DataRead(groups, "groups", "its columns are those of Tandem's own groups", notes)


def _opened(found: DataSource, columns: Mapping[str, str] | None) -> Iterator[DataRow]:
    return rename_columns(open_tasks(found.rows()), columns)


def _streamed(
    parsed: Iterator[Group], notes: ReadingNotes, folder: Path, key: list[Any]
) -> tuple[Groups, ReadingNotes]:
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=12).hexdigest()
    path = folder / f"read-{digest}.parquet"
    groups, kept = keep_groups(path, parsed, lambda: asdict(notes))
    kept |= {k: tuple(kept.get(k, ())) for k in ("remarks", "unread", "facts")}
    return groups, ReadingNotes(**kept)


def _groups(
    rows: Iterable[DataRow], form: Format, notes: ReadingNotes, name: str
) -> Iterator[Group]:
    ids, scale = PromptIds(), LabelScale(form.mark)
    for row in rows:
        notes.rows += len(row.items(form.gathers[0])) if row.gathered else 1
        try:
            if form.left_out is not None:
                for why, n in form.left_out(row).items():
                    notes.left_out[why] = notes.left_out.get(why, 0) + n
            group = add_context(row, form.parse(row), form.needs)
            scale.note_label(row.values.get(form.mark), row.place)
        except SkipRow as reason:
            notes.drop(str(reason), row.place)
            continue
        except UNREADABLE as error:
            raise _unreadable(row, error) from error
        if "completions" in form.needs:
            notes.empty_completions += len(row.items("completions")) - len(group)
        notes.kept += 1
        beside = [c for c in context_columns(row.values) if c not in form.needs]
        for column in beside:
            notes.context[column] = notes.context.get(column, 0) + 1
        own = form.reads(row) if form.reads else ()
        used = {*form.needs, *form.uses, *beside, *own}
        used.add(next((c for c in ID_COLUMNS if row.has(c)), ""))
        meta = {k: v for k, v in row.values.items() if k not in used and v is not None}
        named = ids.name(row, group)
        kept = {**group.prompt.meta, **_plain(meta, row)}
        yield replace(group, prompt=replace(group.prompt, id=named, meta=kept))
    notes.repeated_prompts, notes.repeated_ids = ids.repeated_prompts, ids.repeated_ids
    if not notes.kept:
        raise _nothing(notes, name)


def _plain(meta: dict[str, Any], row: DataRow) -> dict[str, Any]:
    """Return what is left over as JSON can hold it (dates become text)."""
    try:
        return json.loads(json.dumps(meta, default=str))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{row.place}: the extra columns {', '.join(meta)} cannot be kept: {error}",
            "extra columns are kept beside the prompt as JSON",
            "remove the column that holds binary or nested data",
        ) from error


def _unreadable(row: DataRow, error: Exception) -> DataError:
    return DataError(
        f"{row.place}: the row cannot be read: {type(error).__name__}: {shorten_text(str(error))}",
        "one of its columns holds something of another shape than its format has",
        "compare the row with those before it, and mend it; or say what its format is: --format",
    )


def _nothing(notes: ReadingNotes, name: str) -> DataError:
    reasons = "; ".join(
        f"{n} x {why} (first: {notes.first[why]})" for why, n in notes.dropped.items()
    )
    return DataError(
        f"{name}: none of {notes.rows} rows can be used: {reasons or 'there are no rows'}",
        "rows without a prompt, an answer or a difference between answers teach nothing",
        "mend the rows, beginning with the first that is named; where a column of another name "
        "holds the prompt or an answer, --columns says so",
    )

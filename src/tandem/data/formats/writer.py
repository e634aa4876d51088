# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""`write`: groups back to the columns that TRL, HH and the Hugging Face hub know.

Extra columns (`prompt.meta`) are written beside them, and reading the file gives the groups back.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tandem.data.chat import transcripts
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference
from tandem.errors import ConfigError, DataError, nearest_name

Values = dict[str, Any]


@dataclass
class DataWritten:
    """What `write` wrote: rows, and groups or pairs left out by reason."""

    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict[str, int])


class _LeftOut(Exception):
    """A group that the format cannot say."""


def write_data(groups: Groups, path: str | Path, format: str) -> DataWritten:
    """Write groups as JSON Lines (.jsonl, .jsonl.gz) or Parquet.

    Args:
        groups: the collection.
        path: where to; the ending chooses the kind.
        format: `preference` (one row a pair; soft labels as a column `p_chosen`), `hh`,
            `unpaired`, `prompt-completion`, `messages`, `ranked`, `scored` or `prompt`.

    Returns:
        counts; a tie has no winner, so `preference` leaves it out and counts it.

    Raises:
        ConfigError: the format or the ending is unknown.
        DataError: no group can be written in this format.
    """
    path = Path(path)
    if format not in ROW_WRITERS:
        raise ConfigError(
            f"format = {format!r}",
            f"what can be written: {', '.join(ROW_WRITERS)}.{nearest_name(format, ROW_WRITERS)}",
            "give one of them",
        )
    counts = DataWritten()
    rows = _rows(groups, ROW_WRITERS[format], counts)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    _sink(path)(part, rows)
    if not counts.rows:
        part.unlink()
        raise DataError(
            f"no group can be written as `{format}`: {counts.left_out or 'there are no groups'}",
            "the format has no columns for what these groups hold",
            f"write them as another of {', '.join(ROW_WRITERS)}",
        )
    part.replace(path)
    return counts


REPEATED = re.compile(r"#\d+$")
"""What `PromptIds` adds to the id of a prompt that comes again."""


def _sink(path: Path) -> Callable[[Path, Iterator[Values]], None]:
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _write_gzip if path.name.endswith(".gz") else _write_lines
    if path.suffix == ".parquet":
        return _write_parquet
    raise ConfigError(
        f"cannot write {path}: unknown ending `{path.suffix}`",
        "groups are written as .jsonl, .jsonl.gz or .parquet",
        "choose one of these endings",
    )


def _rows(
    groups: Groups, make: Callable[[Group], Iterator[Values]], counts: DataWritten
) -> Iterator[Values]:
    seen: set[str] = set()
    for group in groups:
        stem = REPEATED.sub("", group.id)
        name = stem if stem in seen else group.id
        seen.add(group.id)
        try:
            for values in make(group):
                counts.rows += 1
                extra = {k: v for k, v in group.prompt.meta.items() if k not in values}
                yield {"id": name, **values, **extra}
        except _LeftOut as reason:
            counts.left_out[str(reason)] = counts.left_out.get(str(reason), 0) + 1


def _prompt(group: Group) -> Any:
    return group.prompt.text if group.prompt.messages is None else list(group.prompt.messages)


def _answer(group: Group, completion: Completion) -> Any:
    if group.prompt.messages is None:
        return completion.text
    return list(turns_of(completion))


def turns_of(completion: Completion) -> tuple[dict[str, Any], ...]:
    """Return a completion as messages."""
    return completion.turns or ({"role": "assistant", "content": completion.text},)


def _pairs(group: Group) -> Iterator[tuple[Completion, Completion, Values]]:
    decided = [v for v in group.preferences if v.p != 0.5]
    if not decided:
        raise _LeftOut("no preference, or a tie")
    for vote in decided:
        yield group.completions[vote.winner], group.completions[vote.loser], _strength(vote)


def _strength(vote: Preference) -> Values:
    p = max(vote.p, 1 - vote.p)
    soft = {} if p == 1 else {"p_chosen": p}
    return soft if vote.margin is None else {**soft, "margin": vote.margin}


def _preference(group: Group) -> Iterator[Values]:
    for better, worse, strength in _pairs(group):
        answers = {"chosen": _answer(group, better), "rejected": _answer(group, worse)}
        yield {"prompt": _prompt(group), **answers, **strength}


def _hh(group: Group) -> Iterator[Values]:
    if group.prompt.messages is None:
        raise _LeftOut("a plain prompt is no transcript (see `as_chat`)")
    if any(not transcripts.fits_transcript(turns) for turns in _conversations(group)):
        raise _LeftOut("a transcript has turns of a user and an assistant alone, the user first")
    start = transcripts.render_transcript(group.prompt.messages)
    for better, worse, strength in _pairs(group):
        chosen, rejected = (
            start + transcripts.render_transcript(turns_of(c)) for c in (better, worse)
        )
        yield {"chosen": chosen, "rejected": rejected, **strength}


def _conversations(group: Group) -> Iterator[list[dict[str, Any]]]:
    for completion in group.completions:
        yield [*(group.prompt.messages or ()), *turns_of(completion)]


def _unpaired(group: Group) -> Iterator[Values]:
    if group.scores is None or not all(s in (0, 1) for s in group.scores):
        raise _LeftOut("scores are not 0 and 1")
    for completion, score in zip(group.completions, group.scores, strict=True):
        answer = _answer(group, completion)
        yield {"prompt": _prompt(group), "completion": answer, "label": bool(score)}


def _demonstration(group: Group) -> Iterator[Values]:
    if not group.completions:
        raise _LeftOut("no completion")
    for completion in group.completions:
        yield {"prompt": _prompt(group), "completion": _answer(group, completion)}


def _messages(group: Group) -> Iterator[Values]:
    if group.prompt.messages is None or not group.completions:
        raise _LeftOut("a plain prompt, or no completion")
    for completion in group.completions:
        asked = [
            {**m, "weight": 0} if m["role"] == "assistant" else m for m in group.prompt.messages
        ]
        yield {"messages": [*asked, *turns_of(completion)]}


def _ranked(group: Group) -> Iterator[Values]:
    if not group.preferences:
        raise _LeftOut("no preferences")
    beaten = [0] * len(group)
    for vote in group.preferences:
        beaten[vote.loser] += vote.p != 0.5
    said = {(v.winner, v.loser) for v in group.preferences if v.p != 0.5}
    n = range(len(group))
    if said != {(i, j) for i in n for j in n if beaten[i] < beaten[j]}:
        raise _LeftOut("its preferences are no ranking")
    yield {**_completions(group), "ranks": [1 + n for n in beaten]}


def _scored(group: Group) -> Iterator[Values]:
    if group.scores is None:
        raise _LeftOut("no scores")
    yield {**_completions(group), "scores": [float(s) for s in group.scores]}


def _answers(group: Group) -> Iterator[Values]:
    if not group.completions:
        raise _LeftOut("no completion")
    yield _completions(group)


def _completions(group: Group) -> Values:
    answers = [_answer(group, c) for c in group.completions]
    return {"prompt": _prompt(group), "completions": answers}


def _prompt_only(group: Group) -> Iterator[Values]:
    yield {"prompt": _prompt(group)}


ROW_WRITERS: dict[str, Callable[[Group], Iterator[Values]]] = {
    "preference": _preference,
    "hh": _hh,
    "unpaired": _unpaired,
    "prompt-completion": _demonstration,
    "messages": _messages,
    "ranked": _ranked,
    "scored": _scored,
    "answers": _answers,
    "prompt": _prompt_only,
}


def _write_lines(path: Path, rows: Iterator[Values]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        _dump(stream, rows)


def _write_gzip(path: Path, rows: Iterator[Values]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        _dump(stream, rows)


def _dump(stream: IO[str], rows: Iterator[Values]) -> None:
    for values in rows:
        stream.write(json.dumps(values, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, rows: Iterator[Values]) -> None:
    try:
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        path.unlink(missing_ok=True)
        raise DataError(
            f"cannot write {path}: {error}",
            "a Parquet column has one type, and an extra column holds several",
            "write .jsonl instead",
        ) from error

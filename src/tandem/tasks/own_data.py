"""A task made of your model and your data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tandem.data.chat.transcripts import prompt_key
from tandem.data.formats import DataRead, split_groups
from tandem.data.formats.options import ReadingOptions
from tandem.data.formats.shaping import MissingColumnError
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import ConfigError, DataError
from tandem.judges.answer_key import AnswerKey
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.statistics import explain_few_prompts
from tandem.tasks import LEAST_GOLD, Sizes, Task, gsm8k


def task_from_files(
    model: Path | str | Checkpoint,
    data: Path | str,
    sizes: Sizes = Sizes(),
    reading: ReadingOptions = ReadingOptions(),
    *,
    eval_data: Path | str | None = None,
) -> Task:
    """Make a task of your model and your data; a share of the prompts is held out.

    Prompts are split by a hash of their text. Another share is held back for a gold reward, which
    judges policies and trains none; where that would be fewer than 200 comparisons, nothing is
    held back for it. The best answer of every training group is its demonstration. Questions with
    an answer key (GSM8K's columns), to train on or to examine with, bring a judge that knows it.

    Args:
        model: a Hugging Face folder.
        data: a file, folder or hub id, as `read_data` takes it.
        sizes: `held_out_share` and `gold_share` are read.
        reading: its columns, split and format, where they do not say it themselves.
        eval_data: a test set of your own, read in the same way; nothing of `data` is then held
            out, and prompts that stand in both are left out of training.

    Raises:
        DataError: the data cannot be read, nobody judged it, or all rows have one prompt.
    """
    base = model if isinstance(model, Checkpoint) else Checkpoint(Path(model), Path(model).name)
    found = reading.read(data)
    notes = [f"{data}: {found.format}, because {found.why}", *found.notes.lines()]
    formats = {found.format}
    if eval_data is None:
        train, held_out = _split(found, data, sizes.held_out_share)
    else:
        test = _read_test_set(reading, eval_data, notes)
        formats.add(test.format)
        train, held_out = _without_tested(found.groups, test.groups, data, eval_data, notes)
    rest = 1 - sizes.held_out_share if eval_data is None else 1.0
    train, gold = without_gold(train, sizes, notes, rest)
    if few := explain_few_prompts(len(distinct_prompts(held_out))):
        notes.append(few)
    wording = gsm8k.GSM8K_WORDING if "gsm8k" in formats else None
    judged = _is_judged(train, notes)
    return Task(
        name=Path(data).name.partition(".")[0],
        base=base,
        demonstrations=best_answers(train, data),
        preferences=train if judged else None,
        held_out=held_out if judged else None,
        has_test_set=eval_data is not None,
        asked=None,
        asked_held_out=None,
        gold_labels=gold,
        prompts=train.prompts(),
        evaluation=held_out.prompts(),
        references=_references(held_out),
        truth=None if wording is None else AnswerKey(wording.read),
        wording=wording,
        notes=tuple(notes),
    )


def _is_judged(train: Groups, notes: list[str]) -> bool:
    """Say whether anybody judged answers; where nobody did, note what is then imitated."""
    judged = any(g.preferences or g.scores is not None for g in train)
    if not judged and (several := sum(len(g) > 1 for g in train)):
        notes.append(
            f"nobody judged the answers to {several} prompts: the first is the demonstration"
        )
    return judged


def _read_test_set(reading: ReadingOptions, path: Path | str, notes: list[str]) -> DataRead:
    """Read a test set; without --columns where these are names of the training data alone."""
    try:
        found = reading.read(path)
    except MissingColumnError as error:
        try:
            found = replace(reading, columns="").read(path)
        except DataError:
            raise error from None
        notes.append(f"{path}: read without --columns, which names no columns of it")
    notes += [f"{path}: {found.format}, because {found.why}", *found.notes.lines()]
    return found


def _without_tested(
    groups: Groups, test: Groups, data: Path | str, eval_data: Path | str, notes: list[str]
) -> tuple[Groups, Groups]:
    """Return what is trained on, without the prompts of a test set, and the test set."""
    train = without_prompts(groups, test)
    if twice := len(groups) - len(train):
        notes.append(f"{twice} groups of {data} have a prompt of {eval_data}: not trained on")
    _check_left(train, data, eval_data)
    return train, test


def without_gold(
    train: Groups, sizes: Sizes, notes: list[str], rest: float
) -> tuple[Groups, Groups | None]:
    """Take a part of the training prompts out for a gold reward, and note how much it is.

    Args:
        train: what is not held out.
        sizes: the share of all prompts.
        notes: where what was done is written.
        rest: what share of all prompts `train` is.

    Returns:
        what is left to train on, and the part; None where it would be too little.

    Raises:
        ConfigError: nothing would be left to train on.
    """
    if not sizes.gold_share or not any(g.preferences for g in train):
        return train, None
    share = sizes.gold_share / rest
    if share >= 1:
        raise ConfigError(
            f"sizes.held_out_share = {sizes.held_out_share} with sizes.gold_share = "
            f"{sizes.gold_share}",
            "they are shares of the prompts, and none would be left to train on",
            "give shares that add up to less than 1",
        )
    seed = Seed(0).at("gold")
    parts = split_groups(train, {"train": 1 - share, "gold": share}, seed)
    own = sum(len(g.preferences) for g in parts["gold"])
    if own < LEAST_GOLD:
        notes.append(
            f"no gold_rm: a share of {sizes.gold_share:g} would be {own:,} comparisons, and it "
            f"needs {LEAST_GOLD}"
        )
        return train, None
    notes.append(f"{own:,} comparisons are held back for gold_rm: no policy learns of them")
    return parts["train"], parts["gold"]


def distinct_prompts(groups: Iterable[Group]) -> set[str]:
    """Return the keys of the prompts that occur in some groups."""
    return {prompt_key(group.prompt) for group in groups}


def without_prompts(groups: Groups, others: Groups) -> Groups:
    """Return the groups whose prompt stands in none of the others."""
    known = distinct_prompts(others)
    return groups.take(i for i, g in enumerate(groups) if prompt_key(g.prompt) not in known)


def _split(found: DataRead, data: Path | str, share: float) -> tuple[Groups, Groups]:
    if len(found.groups) and len(distinct_prompts(found.groups)) == 1:
        raise DataError(
            f"{data}: all {len(found.groups)} rows have one prompt",
            "a prompt is trained on or held out, never both: nothing would be left to examine",
            "add rows about other prompts, or give a test set of your own: --eval_data FILE",
        )
    parts = split_groups(found.groups, {"train": 1 - share, "held_out": share})
    for name, part in parts.items():
        if not len(part):
            raise DataError(
                f"{data}: no prompt falls into the part `{name}` of {len(found.groups)} groups",
                f"a share of {share:g} of the prompts is held out by a hash of their text",
                "give more data, another --sizes.held_out_share, or --eval_data FILE",
            )
    return parts["train"], parts["held_out"]


def _check_left(train: Groups, data: Path | str, eval_data: Path | str) -> None:
    if not len(train):
        raise DataError(
            f"every prompt of {data} stands in {eval_data} too",
            "what is examined is never trained on, so nothing is left to train on",
            "give a test set of other prompts, or leave --eval_data out: some are then held out",
        )


def best_answers(groups: Groups, source: Path | str) -> Groups:
    """Return each group with its best completion alone; of marked answers, the good ones.

    Prompts alone have none: what comes back is then empty.

    Raises:
        DataError: every answer is marked bad.
    """
    good = Groups.of(best_answer(g) for g in groups if len(g) and not is_marked_bad(g))
    if not len(good) and any(len(g) for g in groups):
        raise DataError(
            f"{source}: all {len(groups)} answers are marked bad",
            "there is no answer to imitate, and nothing to tell the bad ones from",
            "add good answers (label true)",
        )
    return good


def is_marked_bad(group: Group) -> bool:
    """True for one answer alone that somebody marked bad (score 0)."""
    return len(group) == 1 and group.scores is not None and float(group.scores[0]) == 0.0


def _references(groups: Groups) -> Groups | None:
    """Return one good answer for each prompt, or None where some prompt has none."""
    if any(is_marked_bad(g) or not len(g) for g in groups):
        return None
    return Groups.of(best_answer(g) for g in groups)


def best_answer(group: Group) -> Group:
    """Return the group with its best completion alone: by score, else by wins, else the first."""
    if group.scores is not None:
        which = int(np.argmax(group.scores))
    else:
        wins = np.zeros(len(group))
        for p in group.preferences:
            wins[p.i] += p.p
            wins[p.j] += 1 - p.p
        which = int(np.argmax(wins))
    alone = group.keep([which])
    return replace(alone, scores=None, preferences=(), clusters=None)

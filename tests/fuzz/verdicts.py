"""What became of a case: the command's answer, and what is wrong with it."""

from __future__ import annotations

import contextlib
import io
import random
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tandem import cli
from tandem.errors import TandemError

SHOWN = 4000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said: exit code, output, errors."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The first line of the error, without the values in it."""
        line = next((x for x in self.err.splitlines() if x.startswith("error: ")), "")
        return without_values(line.removeprefix("error: "))


@dataclass(slots=True)
class Verdict:
    """What became of a case.

    Attributes:
        ending: `accepted`, `refused`, or another word that is counted.
        faults: kind of fault -> what was seen.
        reason: why it was refused, without values; a new one is news for the corpus.
        told: what else is kept of a fault.
        counts: further numbers that are added up, such as kills.
    """

    ending: str
    faults: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def blame(self, fault: str, seen: str) -> None:
        """Note a fault, once."""
        self.faults.setdefault(fault, seen[:SHOWN])


class Kind(Protocol):
    """One kind of case.

    Attributes:
        name: as on the command line.
        goal: cases that a whole campaign has.
        deadline: seconds after which a case counts as a hang.
    """

    name: str
    goal: int
    deadline: float

    def prepare(self, home: Path) -> None:
        """Make what every case needs, once a process."""

    def check(self, dice: random.Random, folder: Path) -> Verdict:
        """Do one case in an empty folder."""
        ...


def give_command(words: Sequence[str]) -> Answer:
    """Give the command line words in this process, and keep what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            code = cli.main(words)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except Exception:
            traceback.print_exc()
            code = -1
    return Answer(code, out.getvalue(), err.getvalue())


def judge_answer(answer: Answer, verdict: Verdict, codes: Iterable[int] = (0, 2)) -> None:
    """Note what no answer of a command may be."""
    if "Traceback" in answer.err or answer.code in (-1, 70):
        verdict.blame("traceback", answer.err[-SHOWN:])
    elif answer.code not in codes:
        verdict.blame("wrong code", f"{answer.code}: {answer.err[-SHOWN:]}")
    elif answer.code == 2 and not has_three_parts(answer.err):
        verdict.blame("wrong code", f"no three parts: {answer.err[-SHOWN:]}")


def has_three_parts(err: str) -> bool:
    """True for what, why and do this, none of them empty."""
    return re.search(r"^error: \S.*^  why: \S.*^  do:  \S", err, re.S | re.M) is not None


def judge_error(error: BaseException, verdict: Verdict) -> None:
    """Note an error of a library call that is none of ours, or lacks a part."""
    if not isinstance(error, TandemError):
        lines = traceback.format_exception(error)
        verdict.blame("traceback", "".join(lines)[-SHOWN:])
    elif not all(part.strip() for part in (error.what, error.why, error.do)):
        verdict.blame("wrong code", f"an empty part: {error!r}")


def list_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every file and folder below a folder, with its size and time of change."""
    found: dict[str, tuple[int, int]] = {}
    for place in folder.rglob("*"):
        state = place.lstat()
        size = 0 if place.is_dir() else state.st_size
        found[place.relative_to(folder).as_posix()] = (
            size,
            0 if place.is_dir() else state.st_mtime_ns,
        )
    return found


def name_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name what only one of them has, or what differs."""
    return sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))


def without_values(text: str) -> str:
    """Return a message without what hangs on the case: numbers, quoted values, places."""
    text = re.sub(r"`[^`]*`|'[^']*'|\"[^\"]*\"", "*", text)
    text = re.sub(r"\S*/\S+|[\w-]+\.(jsonl|json|csv|parquet|gz|toml|yaml)\S*", "*", text)
    return re.sub(r"-?[\d][\w.+-]*", "#", text)[:160]


class Clock:
    """Seconds that this process was given: naps that ended, so that a busy machine counts less."""

    NAP = 0.05

    def __init__(self) -> None:
        self.naps, self._over = 0, threading.Event()

    def __enter__(self) -> Clock:
        threading.Thread(target=self._count, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def __float__(self) -> float:
        return self.naps * self.NAP

    def _count(self) -> None:
        while not self._over.wait(self.NAP):
            self.naps += 1


def tell(text: str) -> None:
    """Print a line at once."""
    print(text, file=sys.stderr, flush=True)

"""What a run and its scopes share: the folder's owner, its log, and what is to be done again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tandem.errors import RunError, TandemError, nearest_name
from tandem.machine import process_rank
from tandem.rng import Seed
from tandem.runs import events as talk
from tandem.runs.atomic_files import (
    is_complete,
    lock_folder,
    read_json,
    unlock_folder,
    write_json,
    write_text,
)
from tandem.runs.display import Display, open_display
from tandem.runs.environment import code_commit, environment_changes, environment_snapshot
from tandem.runs.events import Events, StageEvents
from tandem.runs.records import STAGE


class Session:
    """What a run and its scopes share: the lock, the log, the display, what is to be redone."""

    def __init__(self, root: Path, display: Display, log: talk.Log | None) -> None:
        self.root, self.display, self.log = root, display, log
        self.redo: set[str] = set()
        self.redone = False
        self._made: dict[str, Path] | None = None
        self._config: tuple[Path, str] | None = None
        self._former: str | None = None

    @classmethod
    def start(
        cls,
        root: Path,
        seed: Seed,
        redo: frozenset[str],
        display: Display | None,
        follow: Callable[[], Iterable[talk.Follower]] = tuple,
    ) -> Session:
        """Take the folder, or raise a RunError; see `Run`."""
        display = open_display() if display is None else display
        if process_rank() != 0:
            return cls(root, display, None)
        try:
            root.mkdir(parents=True, exist_ok=True)
            lock_folder(root)
        except OSError as error:
            raise RunError(
                f"cannot write into {root}: {error.strerror}",
                "a run keeps its stages in this folder",
                "choose another folder with --out",
            ) from error
        try:
            changed = _check_seed(root, seed)
            _check_redo(root, redo)
            log = talk.Log(root / "events.jsonl", display, followers=tuple(follow()), waits=True)
        except TandemError:
            unlock_folder(root)
            raise
        except OSError as error:
            unlock_folder(root)
            raise RunError(
                f"cannot write into {root}: {error.strerror or error}",
                "a run keeps its stages in this folder",
                "make room or give yourself the right to write there; or another --out",
            ) from error
        session = cls(root, display, log)
        session.redo = set(redo)
        session.events("").log("opened", seed=int(seed), commit=code_commit(), pid=os.getpid())
        if changed:
            text = f"this folder was made elsewhere: {'; '.join(changed)}"
            session.events("").log("environment", text=text)
        return session

    def events(self, stage: str) -> Events:
        """Return the log of a stage, or of the run as a whole ("")."""
        return talk.Silent() if self.log is None else StageEvents(self.log, stage)

    def take_redo(self, place: str) -> bool:
        """Return True once for a stage that the user asked to do again, then forget the wish."""
        named = place in self.redo
        self.redo.discard(place)
        return named

    def find_identical(self, mark: str, of: Callable[[Mapping[str, Any]], str]) -> Path | None:
        """Return a finished stage of another scope with the same identity, or None.

        Args:
            mark: the identity's fingerprint.
            of: the fingerprint of what a stage.json says.
        """
        if self._made is None:
            folders = [p.parent for p in self.root.glob("**/stage.json") if is_complete(p.parent)]
            told = {p: read_json(p / "stage.json") for p in folders}
            self._made = {of(t): p for p, t in told.items() if t}
        found = self._made.get(mark)
        return found if found is not None and is_complete(found) else None

    def remember(self, mark: str, folder: Path, *, anew: bool = False) -> None:
        """Register a finished stage, so that the same stage of a later scope takes its artifact.

        Args:
            mark: the identity's fingerprint.
            folder: the stage.
            anew: it was asked for again, so it stands for the ones before it.
        """
        if self._made is not None:
            if anew:
                self._made.pop(mark, None)
            self._made.setdefault(mark, folder)

    def save_config(self, toml: str) -> None:
        """Keep the settings as `run.toml`: at once in a new folder, else when they are accepted."""
        path = self.root / "run.toml"
        self._config = (path, toml)
        if not path.exists():
            self.accept()

    def accept(self) -> None:
        """Write down what has waited: work begins, so the settings so far are those of the run."""
        if self.log is not None:
            self.log.release()
        if self._config is not None:
            path, toml = self._config
            self._former = path.read_text(encoding="utf-8") if path.exists() else None
            if self._former != toml:
                write_text(path, toml)
            self._config = None

    def refuse(self) -> None:
        """Leave the settings as they were: a command that is refused changes nothing."""
        if self.log is not None:
            self.log.forget()
        if self._config is None and self._former is not None:
            write_text(self.root / "run.toml", self._former)
        self._config = None

    def close(self) -> None:
        """Let the folder go."""
        if self.log is not None:
            if self.log.is_open:
                self.accept()
            self.log.close()
            self.log = None
            unlock_folder(self.root)


def _check_seed(root: Path, seed: Seed) -> list[str]:
    """Refuse another seed; return what has changed in the machine since the folder was made."""
    file = root / "run.json"
    if not file.exists():
        write_json(file, {"seed": int(seed), **environment_snapshot()})
        return []
    stored = read_json(file)
    if stored is None or not isinstance(stored.get("seed"), int):
        raise RunError(
            f"{file} is damaged: it holds no seed",
            "every draw of a run hangs on the seed that is written there",
            f"bring the file back from a copy; or delete {file}, and give the run's own --seed",
        )
    if stored["seed"] != int(seed):
        raise RunError(
            f"{root} was made with seed {stored['seed']}, not {int(seed)}",
            "every draw of a run hangs on one seed",
            f"give seed {stored['seed']} to resume, or another folder for a new run",
        )
    return environment_changes(stored)


def _check_redo(root: Path, redo: frozenset[str]) -> None:
    if redo and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            f"--redo {' '.join(sorted(redo))} in a launch of several processes",
            "the other ranks could take the old stage for the new one",
            "delete the stage's folder, then launch again without --redo",
        )
    if not redo:
        return
    present = {p.relative_to(root).as_posix().removesuffix(".part") for p in root.glob("**/*-*")}
    known = sorted(p for p in present if STAGE.fullmatch(Path(p).name))
    for name in redo:
        if name not in known:
            raise RunError(
                f"there is no stage {name!r} in {root}.{nearest_name(name, known)}",
                "only a stage that exists can be done again",
                f"name one of: {', '.join(known) or 'none, the run is empty'}",
            )

"""A run: a folder in which every stage of a recipe is done once and remembered.

    runs/rlp-micro-0/
      run.json        seed and environment          run.toml   the resolved configuration
      events.jsonl    what happened, and when       run.lock   the process that works here
      01-pairs/       stage.json (function, arguments, git, seed, time, memory), artifact/, DONE
      02-reward.part/ a stage that is not finished: scratch/ holds what it can resume from

A stage is written into its `.part` folder, flushed to disk, marked DONE, and only then given its
name. So a process killed at any moment leaves whole stages and at most one `.part`.
"""

from __future__ import annotations

import inspect
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast, overload

from tandem.data.chat.encoding_rules import EncodingRules
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import Pending, RunError, TandemError
from tandem.machine import Machine, process_rank
from tandem.rng import Seed
from tandem.runs import events as talk
from tandem.runs.artifacts import store_artifact
from tandem.runs.atomic_files import (
    describe_write_error,
    flush_to_disk,
    is_complete,
    mark_complete,
    read_json,
    remove_folder,
    write_json,
)
from tandem.runs.atomic_files import hard_link_tree as link
from tandem.runs.checkpoint import RESULT, Checkpoint
from tandem.runs.context import INJECTED, StageContext
from tandem.runs.display import Display, spell_duration
from tandem.runs.environment import Meter, code_commit
from tandem.runs.events import Events
from tandem.runs.heartbeat import Heartbeat
from tandem.runs.identity import describe_value, fingerprint, list_differences
from tandem.runs.interrupts import raise_if_interrupted
from tandem.runs.names import recorded_name, stage_as_recorded
from tandem.runs.records import STAGE, Record, read_record, read_records, stage_folders
from tandem.runs.session import Session

_A = TypeVar("_A")
POLL_SECONDS = 0.2


class Run:
    """A folder in which every stage of an experiment is done once and remembered.

    `run(name, function, *args, **kw)` calls the function, keeps its result in the folder, and
    the next time returns what is there. It refuses a result that other arguments made.

    >>> def draw(low: int, high: int, *, seed: Seed) -> int:
    ...     return int(seed.rng().integers(low, high))
    >>> with Run("runs/mine", seed=0) as run:
    ...     first = run("number", draw, 0, 1000)
    >>> with Run("runs/mine", seed=0) as run:
    ...     again = run("number", draw, 0, 1000)  # read from the folder
    >>> first == again
    True

    A stage function may declare these keyword-only parameters, which the run then gives:

        ctx: StageContext for a stage that fits a model: its folders, and the three below
        seed: Seed        the stage's own seed
        events: Events    progress and numbers
        machine: Machine  device, precision, layout, adapters; a stage that asks for them (or for
                          `ctx`) is done again when they change

    A stage function marked `@every_rank` is called on every rank of a distributed launch;
    others run on rank 0, and the other ranks wait for the artifact.

    Args:
        path: the run's folder, made when missing.
        seed: root of every draw; a folder keeps the seed it was made with.
        redo: stages to do again, `03-reward` (in a scope: `seed-3/03-reward`). Later stages are
            done again where this changes their arguments.
        display: who shows progress; by default bars on a terminal and lines elsewhere.
        machine: settings that stages which compute may ask for.
        encoding: how texts become tokens, for the stages that make tokens.
        follow: opens who reads the events along, once the folder is this process's own.

    Raises:
        RunError: another process works in the folder, it has another seed, or a stage to redo
            does not exist.
    """

    def __init__(
        self,
        path: Path | str,
        seed: Seed | int = 0,
        *,
        redo: Iterable[str] = (),
        display: Display | None = None,
        machine: Machine = Machine(),
        encoding: EncodingRules = EncodingRules(),
        follow: Callable[[], Iterable[talk.Follower]] = tuple,
    ) -> None:
        self.machine, self.encoding = machine, encoding
        self.path = Path(path)
        self.seed = seed if isinstance(seed, Seed) else Seed(seed)
        self._called: dict[str, str] = {}
        self._session = Session.start(self.path, self.seed, frozenset(redo), display, follow)

    @overload
    def __call__(
        self, name: str, stage: Callable[..., Iterator[Group]], /, *args: Any, **kw: Any
    ) -> Groups: ...
    @overload
    def __call__(self, name: str, stage: Callable[..., _A], /, *args: Any, **kw: Any) -> _A: ...
    def __call__(self, name: str, stage: Callable[..., Any], /, *args: Any, **kw: Any) -> Any:
        """Do a stage, or return the artifact of a stage that is done.

        Raises:
            RunError: the stage was done with other arguments, or its name is used twice.
        """
        raise_if_interrupted()
        folder = self._folder(name)
        if process_rank() != 0:
            return self._follow(name, stage, args, kw)
        arguments = _described(stage, args, kw)
        if {"machine", "ctx"} & set(_injected(stage, kw)):
            arguments["machine"] = describe_value(self.machine)
        if "encoding" in _injected(stage, kw) and self.encoding != EncodingRules():
            arguments["encoding"] = describe_value(self.encoding)
        seed = int(self._stage_seed(name))
        identity = {"function": _function_name(stage), "arguments": arguments, "seed": seed}
        self._claim(name, identity)
        _promote(folder)
        anew = self._reconcile(folder, identity)
        if is_complete(folder):
            self._say(folder, "kept")
        elif not anew and (twin := self._session.find_identical(fingerprint(identity), _mark)):
            self._adopt(folder, twin)
        else:
            self._do(folder, stage, args, kw, identity)
        self._session.remember(fingerprint(identity), folder, anew=anew)
        return read_record(folder).load()

    def scope(self, name: str, seed: Seed | int | None = None) -> Run:
        """Return a run in a subfolder, for one of several seeds, rounds or methods.

        It shares the lock, the events and the display. Its seed is derived from its name unless
        one is given. A stage that another scope has done with the same arguments and the same
        seed is not done again: several methods with one seed share what comes before them.
        """
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name):
            raise RunError(
                f"a scope is called {name!r}",
                "a scope is a folder beside the stages: a letter, then letters, digits, - _ .",
                "choose another name, for example `seed-3`",
            )
        child = object.__new__(Run)
        child.path = self.path / name
        child.path.mkdir(parents=True, exist_ok=True)
        own = self.seed.at("scope", name) if seed is None else seed
        child.seed = own if isinstance(own, Seed) else Seed(own)
        child._called, child._session, child.machine = {}, self._session, self.machine
        child.encoding = self.encoding
        return child

    def say(self, text: str) -> None:
        """Show lines to whoever watches the run; nothing is recorded."""
        self._session.display.say(text)

    @property
    def events(self) -> Events:
        """Events of the run as a whole."""
        return self._session.events(self._place(self.path))

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the stages that this process asked for, in order."""
        return tuple(self._called)

    def records(self) -> list[Record]:
        """List the finished stages."""
        return read_records(self.path)

    def remove_weights_except(self, *kept: Checkpoint) -> int:
        """Delete the weights of all models that stages fitted but one; return the freed bytes.

        Stages stay finished, and the same command prints the same tables again. A later stage that
        would load such a model is refused, with the `--redo` that makes it again.

        Args:
            kept: the models that stay.
        """
        stay, freed = {model.path.resolve() for model in kept}, 0
        for record in self.records() if process_rank() == 0 else ():
            if record.result.get("kind") != "checkpoint":
                continue
            model = cast("Checkpoint", record.load(verify=False))
            place = model.path.resolve()
            if place.is_relative_to(self.path.resolve()) and place not in stay:
                freed += model.remove_weights()
        return freed

    def keep_result(self, model: Checkpoint) -> None:
        """Write down which of the run's models its method returned, for whoever asks for it."""
        place, root = model.path.resolve(), self.path.resolve()
        if process_rank() != 0 or not place.is_relative_to(root):
            return
        told = {"stage": place.parent.relative_to(root).as_posix()}
        if read_json(root / RESULT) != told:
            write_json(root / RESULT, told)

    def save_config(self, toml: str) -> None:
        """Keep the resolved configuration as `run.toml`, once no stage has refused it."""
        if process_rank() == 0:
            self._session.save_config(toml)

    def close(self) -> None:
        """Let another process work in this folder."""
        self._session.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, RunError):
            self._session.refuse()
        self.close()

    def _folder(self, name: str) -> Path:
        if not STAGE.fullmatch(f"00-{name}") or name.endswith(".part"):
            raise RunError(
                f"a stage is called {name!r}",
                "a stage's name becomes a folder: letters, digits, - and _",
                "choose another name",
            )
        known = {stage: number for _, (number, stage), _ in stage_folders(self.path)}
        number = known[name] if name in known else self._next_number(known)
        return self.path / f"{number:02d}-{name}"

    def _next_number(self, known: Mapping[str, int]) -> int:
        """Number a new stage: after the one called before it, so that a deleted one comes back."""
        taken = set(known.values())
        after = 1 + next((known[stage] for stage in reversed(self._called) if stage in known), 0)
        return after if after not in taken else max(taken) + 1

    def _stage_seed(self, name: str) -> Seed:
        return self.seed.at("stage", name)

    def _place(self, folder: Path) -> str:
        inside = folder.relative_to(self._session.root)
        return "" if inside == Path() else inside.as_posix()

    def _say(self, folder: Path, what: str) -> None:
        self._session.display.say(f"{self._place(folder)}  {what}")

    def _claim(self, name: str, identity: dict[str, Any]) -> None:
        mark = fingerprint(identity)
        if self._called.setdefault(name, mark) != mark:
            raise RunError(
                f"the recipe calls two different stages {name!r}",
                "a stage is found again by its name",
                "give the second another name, or put each round into `run.scope(...)`",
            )

    def _reconcile(self, folder: Path, identity: dict[str, Any]) -> bool:
        """Remove what is to be redone or is broken; refuse what other arguments made.

        Returns:
            True where the user asked for this stage to be done again: no other scope's will do.
        """
        anew = False
        for place in (folder, _part(folder)):
            if not place.exists():
                continue
            stored = read_json(place / "stage.json")
            if stored is None or (place == folder and not is_complete(folder)):
                self._session.accept()
                self._session.events(self._place(folder)).log("discarded", reason="incomplete")
                remove_folder(place)
                continue
            wanted = self._session.take_redo(self._place(folder))
            anew = anew or wanted
            changes = list(list_differences(stage_as_recorded(stored), identity))
            if wanted or (changes and self._session.redone):
                reason = "asked for" if wanted else "an earlier stage was done again"
                self._session.accept()
                self._say(folder, f"is done again: {reason}")
                self._session.events(self._place(folder)).log("redo", reason=reason)
                remove_folder(place)
                self._session.redone = True
            elif changes:
                raise _refusal(place, self._place(folder), changes)
        return anew

    def _do(
        self,
        folder: Path,
        stage: Callable[..., Any],
        args: tuple[Any, ...],
        kw: dict[str, Any],
        identity: dict[str, Any],
    ) -> None:
        part, label = _part(folder), self._place(folder)
        events = self._session.events(label)
        given = self._given(part, Seed(identity["seed"]), events)
        out, scratch = given["ctx"].out, given["ctx"].scratch
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        scratch.mkdir(exist_ok=True)
        write_json(part / "stage.json", identity)
        self._session.accept()
        events.log("started", resumed=str(any(scratch.iterdir())))
        try:
            with Meter() as meter, Heartbeat(self._session.display, label):
                value = stage(*args, **kw, **{n: given[n] for n in _injected(stage, kw)})
                result = store_artifact(value, out)
        except BaseException as error:
            with suppress(OSError):  # where nothing can be written, the first error is the one
                how = "pending" if isinstance(error, Pending) else "stopped"
                events.log(how, error=repr(error))
                _abandon(part)
            reason = None if isinstance(error, TandemError) else describe_write_error(error)
            if reason is not None:
                raise _unwritten(label, reason) from error
            raise
        finally:
            self._session.display.end(label)
        cost = {"seconds": round(meter.seconds, 3), "peak_bytes": meter.peak_bytes}
        write_json(
            part / "stage.json", {**identity, "result": result, **cost, "git": code_commit()}
        )
        mark_complete(part, besides=scratch)
        _promote(folder)
        events.log("done", **cost)
        memory = f"{meter.peak_bytes / 2**30:.2f} GiB"
        self._say(folder, f"done in {spell_duration(meter.seconds)}, {memory}")

    def _adopt(self, folder: Path, twin: Path) -> None:
        """Take the artifact of the same stage in another scope: same function, arguments, seed."""
        read_record(twin).load()
        self._session.accept()
        place = folder.with_name(folder.name + ".twin")
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(_part(folder), ignore_errors=True)
        twin_of = read_json(twin / "stage.json") or {}
        link(twin / "artifact", place / "artifact")
        write_json(place / "stage.json", {**twin_of, "same_as": self._place(twin)})
        mark_complete(place, besides=place / "artifact")
        place.rename(folder)
        flush_to_disk(folder.parent)
        self._say(folder, f"kept: the same as {self._place(twin)}")

    def _follow(
        self, name: str, stage: Callable[..., Any], args: tuple[Any, ...], kw: dict[str, Any]
    ) -> Any:
        """On ranks above 0: help if the stage is collective, then wait for rank 0's artifact."""
        place = self._await(name, begun=getattr(stage, "every_rank", False))
        if not is_complete(place):
            given = self._given(place, self._stage_seed(name), talk.Silent())
            stage(*args, **kw, **{n: given[n] for n in _injected(stage, kw)})
            place = self._await(name)
        return read_record(place).load()

    def _await(self, name: str, *, begun: bool = False) -> Path:
        """Wait until rank 0 has finished a stage, or has begun it."""
        while True:
            for place, (_, stage), part in stage_folders(self.path):
                ready = begun and not is_complete(place) and (place / "stage.json").exists()
                if stage == name and (ready if part else is_complete(place)):
                    return place
            time.sleep(POLL_SECONDS)

    def _given(self, part: Path, seed: Seed, events: Events) -> dict[str, Any]:
        """What a stage function may ask for; the keys are `INJECTED`."""
        ctx = StageContext(part / "artifact", part / "scratch", seed, events, self.machine)
        return {
            "ctx": ctx,
            "seed": seed,
            "events": events,
            "machine": self.machine,
            "encoding": self.encoding,
        }


def _function_name(stage: Callable[..., Any]) -> str:
    return recorded_name(cast("Any", stage)) if hasattr(stage, "__qualname__") else repr(stage)


def _injected(stage: Callable[..., Any], kw: Mapping[str, Any]) -> list[str]:
    parameters = inspect.signature(stage).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        n for n in INJECTED if n in parameters and parameters[n].kind is keyword and n not in kw
    ]


def _described(
    stage: Callable[..., Any], args: tuple[Any, ...], kw: dict[str, Any]
) -> dict[str, Any]:
    given = _injected(stage, kw)
    bound = inspect.signature(stage).bind(*args, **kw, **dict.fromkeys(given))
    bound.apply_defaults()
    return {name: describe_value(v) for name, v in bound.arguments.items() if name not in given}


def _mark(stored: Mapping[str, Any]) -> str:
    return fingerprint(stage_as_recorded(stored))


def _refusal(place: Path, label: str, changes: list[str]) -> RunError:
    what = f"{place} was made with other arguments:\n" + "\n".join(f"    {c}" for c in changes)
    return RunError(
        what,
        "a run never mixes results of different settings",
        f"`--redo {label}` to do it again here, or another folder (`--out`) for a new run",
    )


def _unwritten(label: str, reason: str) -> RunError:
    return RunError(
        f"the stage {label} ended: {reason}",
        "a stage reads and writes files, and one of them could not be",
        "make room, or give yourself the right; the same command then goes on from here",
    )


def _part(folder: Path) -> Path:
    return folder.with_name(folder.name + ".part")


def _promote(folder: Path) -> None:
    """Rename a complete `.part` folder to the stage's name; a process may have died just before."""
    part = _part(folder)
    if is_complete(part):
        shutil.rmtree(part / "scratch", ignore_errors=True)
        part.rename(folder)
        flush_to_disk(folder.parent)


def _abandon(part: Path) -> None:
    """Remove what a failed stage wrote, except what it can resume from."""
    shutil.rmtree(part / "artifact", ignore_errors=True)
    if not any((part / "scratch").iterdir()):
        shutil.rmtree(part)

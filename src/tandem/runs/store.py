"""A copy of a run's folder in a remote store, so that a preempted run goes on elsewhere.

    tandem run dpo --task micro --store s3://bucket/runs/dpo

Files are sent while the run works, every few seconds those that changed. A stage's DONE goes last,
so the store holds whole stages and at most one that is begun, as the folder itself does after a
kill. Where the folder is not there, it is fetched from the store first.

One folder owns the copy at a time. The store names it in `owner.json`, and whoever takes the run
over writes another name there; the one before then stops instead of mixing two runs.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, cast

from tandem.data.remote_files import names_below, reach_store
from tandem.errors import ConfigError, RunError
from tandem.machine import world_size
from tandem.runs.atomic_files import is_complete, read_json, write_json

OWNER, KNOWN = "owner.json", "store.json"
"""Who owns the copy, in the store; what was sent, in the folder."""
OFTEN = 0.1
"""Seconds between two looks at least."""
NOT_SENT = re.compile(r"(^|/)(run\.lock|store\.json)$|\.\d+\.part$|\.part/(DONE$|artifact/)")
"""Files of this process alone, files half written, and what a begun stage does not resume from."""
ATTEMPTS = 3

Marks = dict[str, list[int]]
"""A file's name in the folder -> its size and time, as it was sent."""


def open_store(
    folder: Path, url: str | None, *, every: float, fetch: bool = True
) -> AbstractContextManager[object]:
    """Return what keeps a folder's copy in a store during a `with` block; nothing without an URL.

    Args:
        folder: the run's folder; fetched from the store if it is not here.
        url: where the copy is kept.
        every: seconds between two looks at the folder.
        fetch: False where nothing is to be made.

    Raises:
        ConfigError: several processes would each keep the copy.
        RunError: as `RunStore` does.
    """
    if url is None:
        return nullcontext()
    if world_size() > 1:
        raise ConfigError(
            f"--store {url} in {world_size()} processes",
            "one process keeps the copy, and the others would begin before it is fetched",
            "leave --store out, and let --out be a disk that all machines see",
        )
    store = RunStore(folder, url, every=every)
    if fetch:
        store.fetch()
    return store


class RunStore:
    """Keeps a copy of a folder in a store while a `with` block works in the folder.

    Args:
        folder: the run's folder.
        url: where the copy is kept: `s3://bucket/name`, `gs://...`, `file:///...`, or whatever
            else fsspec knows; keys come from the environment, as its drivers read them.
        every: seconds between two looks at the folder.
        say: told what happens.

    Raises:
        RunError: the address is none, its driver is not installed, or nobody answers there.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        every: float = 30.0,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.url, self.every, self.say = folder, url, max(every, OFTEN), say
        self._files, self._root = reach_store(url, f"--store {url}", RunError)
        self._owner = secrets.token_hex(8)
        self._sent: Marks = {}
        self._closing, self._lock = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def fetch(self) -> bool:
        """Bring the folder from the store if it is not here; return whether it came from there.

        Raises:
            RunError: the store holds another run, or one that went on elsewhere; or a name in it
                leads out of the folder.
        """
        theirs = self._remote_owner()
        if theirs is None:
            return False
        if self.folder.is_dir() and any(self.folder.iterdir()):
            ours = read_json(self.folder / KNOWN) or {}
            if theirs not in (ours.get("owner"), ours.get("before")):
                raise RunError(
                    f"{self.url} holds a run that went on elsewhere, or another one than "
                    f"{self.folder}",
                    "two runs would be mixed",
                    f"delete {self.folder} to go on from the store, or give another --store",
                )
            self._sent = _marks(ours.get("sent"))
            return False
        coming = self.folder.with_name(f"{self.folder.name}.coming")
        shutil.rmtree(coming, ignore_errors=True)
        names = list(self._remote_names())
        for name in names:
            target = coming / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(f"{self._root}/{name}", str(target))
        for part in list(coming.rglob("*.part")):
            if is_complete(part.with_name(part.name.removesuffix(".part"))):
                shutil.rmtree(part)
        self._sent = {name: mark for name, mark in _look(coming).items() if name in names}
        write_json(coming / KNOWN, {"owner": theirs, "sent": self._sent})
        with suppress(FileNotFoundError):
            self.folder.rmdir()
        coming.rename(self.folder)
        self.say(f"{len(names)} files came from {self.url}")
        return True

    def __enter__(self) -> RunStore:
        self.fetch()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remember(before=self._remote_owner())
        self._put(OWNER, json.dumps({"owner": self._owner}).encode())
        self._thread = threading.Thread(target=self._keep_sending, name="tandem-store", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        for attempt in range(ATTEMPTS):
            try:
                self.send()
                return
            except Exception as error:
                self._failure = error
                if isinstance(error, RunError):
                    break
                self._closing.wait(attempt)
        if kind is None:
            raise self._lost() from self._failure
        self.say(str(self._lost()))

    def send(self) -> int:
        """Send what changed since the last time, and delete what is gone; return how many files.

        Raises:
            RunError: another folder owns the copy by now.
        """
        with self._lock:
            if self._remote_owner() not in (None, self._owner):
                raise RunError(
                    f"{self.url} was taken over by another machine",
                    "two copies of one run would be mixed, so nothing is sent any more",
                    f"go on there; or give another --store, and {self.folder} is sent whole",
                )
            now = _look(self.folder)
            changed = [name for name, mark in now.items() if self._sent.get(name) != mark]
            changed.sort(key=lambda name: (name.endswith("/DONE"), name))
            for name in changed:
                with suppress(FileNotFoundError):  # a stage that ended meanwhile has another name
                    self._files.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
                    self._files.put_file(str(self.folder / name), f"{self._root}/{name}")
                    self._sent[name] = now[name]
            gone = [name for name in self._sent if name not in now]
            for name in gone:
                with suppress(FileNotFoundError):
                    self._files.rm_file(f"{self._root}/{name}")
                del self._sent[name]
            if changed or gone:
                self._remember()
            return len(changed)

    def _keep_sending(self) -> None:
        while not self._closing.wait(self.every):
            try:
                self.send()
                self._failure = None
            except RunError as error:
                self._failure = error
                self.say(str(error))
                return
            except Exception as error:  # a store that is away for a while
                if self._failure is None:
                    self.say(f"nothing was sent to {self.url} and is tried again: {error}")
                self._failure = error

    def _remote_names(self) -> Iterator[str]:
        for name in names_below(self._files, self._root, self.url, RunError):
            if name != OWNER and not NOT_SENT.search(name):
                yield name

    def _remote_owner(self) -> str | None:
        try:
            told = json.loads(self._files.cat_file(f"{self._root}/{OWNER}"))
        except FileNotFoundError:
            return None
        except ValueError:
            return ""
        return str(told.get("owner", "")) if isinstance(told, dict) else ""

    def _put(self, name: str, data: bytes) -> None:
        self._files.makedirs(self._root, exist_ok=True)
        self._files.pipe_file(f"{self._root}/{name}", data)

    def _remember(self, **more: Any) -> None:
        write_json(self.folder / KNOWN, {"owner": self._owner, "sent": self._sent, **more})

    def _lost(self) -> RunError:
        return RunError(
            f"not all of {self.folder} is in {self.url}: {self._failure}",
            "the run itself is whole in its folder",
            "give the same command again when the store answers; what is missing is sent",
        )


def _look(folder: Path) -> Marks:
    """Return the files that a copy of a folder holds, as they are now."""
    found: Marks = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not NOT_SENT.search(name):
            with suppress(FileNotFoundError):
                told = path.lstat()
                if path.is_file() and not path.is_symlink():
                    found[name] = [told.st_size, told.st_mtime_ns]
    return found


def _marks(told: object) -> Marks:
    table = cast("Mapping[str, Any]", told) if isinstance(told, dict) else {}
    return {str(name): list(mark) for name, mark in table.items() if isinstance(mark, list)}

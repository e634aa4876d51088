"""The finished stages of a run's folder, read without running anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tandem.errors import RunError
from tandem.runs.artifacts import load_artifact
from tandem.runs.atomic_files import is_complete, read_json
from tandem.runs.names import stage_as_recorded


@dataclass(frozen=True, slots=True)
class Record:
    """A finished stage, as its stage.json tells it.

    Attributes:
        folder: the stage's folder.
        function: the recorded name of the stage function, see `names`.
        arguments: name -> description, see `runs.identity.describe_value`.
        seconds: wall time of the attempt that finished.
        peak_bytes: largest resident memory during that attempt.
        git: commit of the code, with "-dirty" when files were changed, or None.
        same_as: the stage of another scope whose artifact this is, or None.
    """

    folder: Path
    function: str
    arguments: dict[str, Any]
    result: dict[str, Any]
    seed: int
    seconds: float
    peak_bytes: int
    git: str | None
    same_as: str | None = None

    @property
    def name(self) -> str:
        """The stage's name without its number."""
        return self.folder.name.partition("-")[2]

    def load(self, *, verify: bool = True) -> Any:
        """Open the artifact; verified against its hash, unless told otherwise.

        Raises:
            RunError: it is damaged.
        """
        return load_artifact(self.result, self.folder / "artifact", verify=verify)


def read_records(path: Path) -> list[Record]:
    """List the finished stages of a run folder, in order; needs no lock."""
    return [
        read_record(folder)
        for folder, _, part in stage_folders(path)
        if not part and is_complete(folder)
    ]


def read_value(stored: Any, *path: str) -> Any:
    """Return what stands at a path of names in a stage's value: `read_value(exam, "text")`.

    Raises:
        RunError: it does not stand there. A folder that somebody wrote may hold another value, with
            the hash of that value.
    """
    found = stored
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            raise RunError(
                f"a stage's value has no `{'.'.join(path)}`: {str(stored)[:60]}",
                "the folder holds another value than the stage makes",
                "delete the stage's folder to have it done again, or take a new --out",
            )
        found = cast("Mapping[str, Any]", found)[name]
    return found


def read_exam_text(stored: Any) -> str:
    """Return the `text` of a stage's value, which people are shown.

    Raises:
        RunError: it has none.
    """
    return str(read_value(stored, "text"))


COLUMNS: dict[str, tuple[type, ...]] = {
    "function": (str,),
    "arguments": (dict,),
    "result": (dict,),
    "seed": (int,),
    "seconds": (int, float),
    "peak_bytes": (int,),
    "git": (str, type(None)),
    "same_as": (str, type(None)),
}
"""What a finished stage's stage.json holds, and of which types."""


def read_record(folder: Path) -> Record:
    """Read how a finished stage was made, in the names of today.

    Raises:
        RunError: it is missing or damaged.
    """
    stored = read_json(folder / "stage.json")
    if stored is None:
        raise RunError(
            f"{folder / 'stage.json'} cannot be read",
            "a finished stage says there how it was made",
            f"delete {folder} to have the stage done again",
        )
    stored.setdefault("same_as", None)
    for name, kinds in COLUMNS.items():
        given = stored.get(name)
        if name not in stored or not isinstance(given, kinds) or isinstance(given, bool):
            raise RunError(
                f"{folder / 'stage.json'} is damaged: `{name}` is {str(given)[:60]}",
                "a finished stage says there how it was made",
                f"bring the file back from a copy, or delete {folder} to have the stage done again",
            )
    return Record(folder, **{name: stored[name] for name in COLUMNS} | stage_as_recorded(stored))


STAGE = re.compile(r"(\d{2,})-([A-Za-z0-9_-]+)(\.part)?")


def stage_folders(path: Path) -> Iterator[tuple[Path, tuple[int, str], bool]]:
    """Yield (folder, (number, name), unfinished) in order of number."""
    present = path.iterdir() if path.is_dir() else ()
    found = [(p, m) for p in present if (m := STAGE.fullmatch(p.name))]
    for place, _ in found:
        if not place.is_dir():
            raise RunError(
                f"{place} is a file",
                "a stage is a folder of this name",
                f"move {place} away; the stage is then done again",
            )
    for folder, match in sorted(found, key=lambda pair: (int(pair[1][1]), pair[0].name)):
        yield folder, (int(match[1]), match[2]), match[3] is not None

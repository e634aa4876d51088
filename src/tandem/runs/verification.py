"""Every finished stage below a folder, compared with what its stage.json says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tandem.errors import RunError
from tandem.runs.atomic_files import is_complete, read_json
from tandem.runs.records import STAGE, read_record


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found of one stage.

    Attributes:
        stage: its place below the folder.
        problem: what is wrong, or None.
    """

    stage: str
    problem: str | None


def verify_run(root: Path) -> Iterator[Verification]:
    """Read every artifact of a run or a bench again, and yield what was found, in order.

    Raises:
        RunError: there is no finished stage at all.
    """
    places = [p for p in root.rglob("*") if STAGE.fullmatch(p.name)]
    done = [p for p in sorted(places) if not p.is_dir() or is_complete(p)]
    if not done:
        raise RunError(
            f"{root} holds no finished stage",
            "a run's stages are compared with what their stage.json says",
            "name the folder that `tandem run` or `tandem bench` printed",
        )
    for file in sorted(root.rglob("run.json")):
        if not isinstance((read_json(file) or {}).get("seed"), int):
            yield Verification(file.relative_to(root).as_posix(), "it holds no seed")
    for place in done:
        yield Verification(place.relative_to(root).as_posix(), _find_problem(place))


def _find_problem(place: Path) -> str | None:
    if not place.is_dir():
        return "it is a file; a stage is a folder"
    try:
        read_record(place).load()
    except RunError as error:
        return error.what
    return None

"""Other people's dashboards, fed from the same events as `events.jsonl`.

The file is always written; a tracker follows it. Each is an optional extra, works without a
network where its library does, and gets numbers alone: `stage/kind/name` against a step.

    tandem run dpo --task micro --tracker tensorboard --tracker trackio

    tensorboard   event files in the run's folder, `tensorboard --logdir RUN/trackers/tensorboard`
    trackio       a local database, `trackio show --project tandem`
    wandb         offline unless WANDB_MODE says otherwise; `wandb sync` sends it
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem.errors import ConfigError, nearest_name
from tandem.runs.events import Follower

COUNTERS = ("step", "round", "done")
"""What may number an event, the finest first."""
UNTRACKED = ("time", "total", *COUNTERS)


def numbers_of(event: Mapping[str, Any]) -> dict[str, float]:
    """Return an event's numbers under the names that a dashboard groups by."""
    place = "/".join(str(part) for part in (event.get("stage"), event["kind"]) if part)
    return {
        f"{place}/{name}": float(value)
        for name, value in event.items()
        if name not in UNTRACKED and isinstance(value, int | float) and not isinstance(value, bool)
    }


class Steps:
    """Numbers events: by their own counter, else in order of arrival within their kind."""

    def __init__(self) -> None:
        self._arrived: dict[tuple[str, str], int] = {}

    def of(self, event: Mapping[str, Any]) -> int:
        """Return the event's step."""
        for name in COUNTERS:
            if isinstance(event.get(name), int | float):
                return int(event[name])
        key = (str(event.get("stage", "")), str(event["kind"]))
        self._arrived[key] = self._arrived.get(key, -1) + 1
        return self._arrived[key]


class TensorBoard:
    """Writes event files with TensorBoard's own writer, without torch or TensorFlow."""

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        writer = _module("tensorboard", "tensorboard.summary.writer.event_file_writer")
        self._event = _module("tensorboard", "tensorboard.compat.proto.event_pb2").Event
        self._summary = _module("tensorboard", "tensorboard.compat.proto.summary_pb2").Summary
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = writer.EventFileWriter(str(folder))
        self._steps = Steps()

    def follow(self, event: Mapping[str, Any]) -> None:
        """Write one event's numbers as scalars."""
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in numbers_of(event).items()
        ]
        if values:
            summary, step = self._summary(value=values), self._steps.of(event)
            written = self._event(wall_time=event["time"], step=step, summary=summary)
            self._writer.add_event(written)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


class Dashboard:
    """trackio and Weights & Biases share one interface: `init`, `log`, `finish`.

    Their own step must grow, and stages count anew, so the event's step is logged as a number
    beside the others: `stage/kind/step`.
    """

    def __init__(self, library: Any, **start: Any) -> None:
        self._run = library.init(**start)
        self._steps = Steps()

    def follow(self, event: Mapping[str, Any]) -> None:
        """Log one event's numbers."""
        if found := numbers_of(event):
            place = next(iter(found)).rpartition("/")[0]
            self._run.log({**found, f"{place}/step": self._steps.of(event)})

    def close(self) -> None:
        """End the dashboard's run."""
        self._run.finish()


def open_trackio(folder: Path, run: str, settings: Mapping[str, Any]) -> Dashboard:
    """Open a local trackio run; nothing leaves the machine."""
    library = _module("trackio", "trackio")
    return Dashboard(library, project="tandem", name=run, config=dict(settings), embed=False)


def open_wandb(folder: Path, run: str, settings: Mapping[str, Any]) -> Dashboard:
    """Open a Weights & Biases run, offline unless WANDB_MODE says otherwise."""
    library = _module("wandb", "wandb")
    folder.mkdir(parents=True, exist_ok=True)
    mode = os.environ.get("WANDB_MODE", "offline")
    quiet = library.Settings(silent=True, console="off", x_disable_stats=True)
    return Dashboard(library, project="tandem", name=run, config=dict(settings),
                     dir=str(folder), mode=mode, settings=quiet)  # fmt: skip


TRACKERS: Mapping[str, Callable[[Path, str, Mapping[str, Any]], Follower]] = {
    "tensorboard": TensorBoard,
    "trackio": open_trackio,
    "wandb": open_wandb,
}


def open_trackers(
    names: Sequence[str], run: Path, settings: Mapping[str, Any]
) -> Iterator[Follower]:
    """Open trackers for a run's folder, each once.

    Args:
        names: of TRACKERS.
        run: the run's folder; files go to `trackers/NAME` in it.
        settings: the resolved configuration, shown beside the curves.

    Raises:
        ConfigError: an unknown name, or a library that is not installed.
    """
    for name in names:
        check_known(name)
    for name in dict.fromkeys(names):
        yield TRACKERS[name](run / "trackers" / name, run.name, settings)


def check_known(name: str) -> None:
    """Refuse a tracker that does not exist or is not installed, before anything starts."""
    if name not in TRACKERS:
        raise ConfigError(
            f"there is no tracker {name!r}.{nearest_name(name, TRACKERS)}",
            "a tracker follows the events of a run into another program",
            f"name one of: {', '.join(TRACKERS)}; events.jsonl is always written",
        )
    _module(name, name)


def _module(extra: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"--tracker {extra}: {error}",
            f"{extra} is an optional extra",
            f"pip install 'tandem-rlhf[{extra}]'",
        ) from error

"""How much memory a process may use, and how much it has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")


def usable_memory(device: torch.device) -> int | None:
    """Return the bytes of memory that a process may use on a device, or None where unknown.

    That is what is free now and what the process has already. On a CPU it is also bounded by the
    limits of the control groups, and shared among the processes of a launch.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    if device.type != "cpu":
        return None
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    free = _kibibytes(Path("/proc/meminfo"), "MemAvailable")
    if free is not None:
        total = min(total, free + (_kibibytes(Path("/proc/self/status"), "VmRSS") or 0))
    return min([total, *_limits(CGROUPS)]) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _kibibytes(file: Path, name: str) -> int | None:
    """Return the bytes that a line `NAME: 12 kB` of a file of the kernel says, or None."""
    with suppress(OSError, ValueError, IndexError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _limits(mounted: Path, groups: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Yield the limits of this process's control groups, of version 2 and 1, up to the root."""
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "memory"):
                name = "memory.limit_in_bytes" if kinds else "memory.max"
                own = Path(path.lstrip("/"))
                for folder in (own, *own.parents):
                    with suppress(OSError, ValueError):  # no such file, or `max`
                        yield int((mounted / kinds / folder / name).read_text())


def resident_memory() -> int:
    """Return the bytes that this process has in memory now; 0 where the system does not say."""
    return _kibibytes(Path("/proc/self/status"), "VmRSS") or 0

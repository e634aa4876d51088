"""The machine a run was made on, and what a stage cost: versions, commit, time, memory."""

from __future__ import annotations

import functools
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

PACKAGES = (
    "tandem-rlhf", "torch", "transformers", "accelerate", "peft", "datasets", "tokenizers",
    "safetensors", "numpy", "pyarrow", "scipy", "statsmodels", "scikit-learn",
)  # fmt: skip


def environment_snapshot() -> dict[str, Any]:
    """Return a snapshot: what one must know to explain a difference between two machines."""
    return {
        "command": [hide_password(word) for word in sys.argv],
        "git": code_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor_name(),
        "cpus": os.cpu_count(),
        "versions": package_versions(),
    }


def hide_password(text: str) -> str:
    """Return a text in which addresses have *** for their password.

    >>> hide_password("--database=postgresql://me:secret@host/votes")
    '--database=postgresql://me:***@host/votes'
    """
    return re.sub(r"(\w://[^\s/:@]*):\S*@", r"\1:***@", text)


def environment_changes(stored: Mapping[str, Any]) -> list[str]:
    """Say what differs between a snapshot and this machine, in what can change numbers.

    Args:
        stored: a snapshot; what it does not hold is not compared.
    """
    now = {"code": code_commit(), "python": platform.python_version(), "cpu": processor_name()}
    then = {"code": stored.get("git"), "python": stored.get("python"), "cpu": stored.get("cpu")}
    versions = stored.get("versions")
    if isinstance(versions, Mapping):
        kept = cast("Mapping[str, str]", versions)
        then |= {name: kept[name] for name in PACKAGES if name in kept}
        now |= package_versions()
    return [f"{k} {then[k]}, now {now[k]}" for k in now if then.get(k) not in (None, now[k])]


def package_versions() -> dict[str, str | None]:
    """Return installed versions, without importing anything."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(name)
    return None


def processor_name() -> str:
    """Return the processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def code_commit() -> str | None:
    """Return the commit of the code, with "-dirty" when files were changed, or None."""
    folder = str(Path(__file__).parent)
    asked = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(asked, text=True, stderr=subprocess.DEVNULL).strip() or None
    return None


class Meter:
    """Measures wall time and the largest resident memory between entering and leaving.

    On Linux the kernel's high-water mark is reset first; elsewhere the number is the largest
    since the process began.
    """

    seconds: float = 0.0
    peak_bytes: int = 0

    def __enter__(self) -> Meter:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.peak_bytes = _peak_bytes()


def resident_bytes() -> int | None:
    """Return this process's resident memory now, or None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def _peak_bytes() -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

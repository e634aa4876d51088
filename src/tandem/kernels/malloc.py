"""Freed memory is kept for the next step, where the C library would hand it back.

A step frees what it computed, and the next one asks for as much again. glibc returns large pieces
to the system at once, which then gives them anew, zeroed, page by page: up to a third of a short
run on a CPU (docs/log/speed.md). Within `kept` it keeps them; afterwards what is free goes back.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Names of numbers in glibc's malloc.h, there with M_ before them."""
KEPT = {TRIM_THRESHOLD: -1, MMAP_MAX: 0}
"""-1: the top of the heap is never given back; 0: nothing is mapped on its own."""
USUAL = {TRIM_THRESHOLD: 64 << 20, MMAP_THRESHOLD: 32 << 20, MMAP_MAX: 65536}
"""Where glibc's own adjustment ends; it adjusts no more once it was told a number."""

_depth = 0


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory while this lasts; does nothing where the C library is not glibc.

    The process stays as large as its largest step until the outermost `kept` ends.
    """
    global _depth
    glibc = _glibc()
    _depth += 1
    try:
        if glibc is not None and _depth == 1:
            _tell(glibc, KEPT)
        yield
    finally:
        _depth -= 1
        if glibc is not None and _depth == 0:
            _tell(glibc, USUAL)
            glibc.malloc_trim(0)


def _tell(glibc: Any, numbers: dict[int, int]) -> None:
    for name, value in numbers.items():
        glibc.mallopt(name, value)


@functools.cache
def _glibc() -> Any:
    """Return the C library where it is glibc, or None."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None

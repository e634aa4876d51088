"""Freed memory is kept for the next step, or handed back at once; the C library does neither.

A step frees what it computed, and the next one asks for as much again. glibc returns large pieces
to the system at once, which then gives them anew, zeroed, page by page: up to a third of a short
run on a CPU (docs/log/speed.md). Within `keep_freed_memory` it keeps them; afterwards what is free
goes back.

Sharded weights are gathered layer by layer and dropped again. Where a dropped layer was, small
tensors settle, and the next layer finds no room: the process grows as if nothing had been dropped
(docs/log/scaling.md). Within `return_freed_memory` every large piece is a mapping of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Names of numbers in glibc's malloc.h, there with M_ before them."""
KEEP_OPTIONS = {TRIM_THRESHOLD: -1, MMAP_MAX: 0}
"""-1: the top of the heap is never given back; 0: nothing is mapped on its own."""
RETURN_OPTIONS = {TRIM_THRESHOLD: 1 << 20, MMAP_THRESHOLD: 256 << 10, MMAP_MAX: 1 << 20}
"""Pieces of 256 KiB and more are mapped on their own, and nothing adjusts the size."""
USUAL = {TRIM_THRESHOLD: 64 << 20, MMAP_THRESHOLD: 32 << 20, MMAP_MAX: 65536}
"""Where glibc's own adjustment ends; it adjusts no more once it was told a number."""

_depth = 0


def keep_freed_memory() -> AbstractContextManager[None]:
    """Keep freed memory while this lasts; does nothing where the C library is not glibc.

    The process stays as large as its largest step until the outermost block ends. An outer block
    decides for those inside it.
    """
    return _told(KEEP_OPTIONS)


def return_freed_memory() -> AbstractContextManager[None]:
    """Hand large pieces back as they are freed; does nothing where the C library is not glibc.

    Each time they are asked for again, the system gives them anew, page by page.
    """
    return _told(RETURN_OPTIONS)


@contextlib.contextmanager
def _told(options: Mapping[int, int]) -> Iterator[None]:
    global _depth
    glibc = _glibc()
    _depth += 1
    try:
        if glibc is not None and _depth == 1:
            _tell(glibc, options)
        yield
    finally:
        _depth -= 1
        if glibc is not None and _depth == 0:
            _tell(glibc, USUAL)
            glibc.malloc_trim(0)


def _tell(glibc: Any, numbers: Mapping[int, int]) -> None:
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

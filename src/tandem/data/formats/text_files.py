# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false
"""Text files, plain and gzipped: opened as UTF-8, and what is broken in them said by name."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from tandem.data.formats.fields import shorten_text
from tandem.errors import DataError


@contextmanager
def sound_file(path: Path) -> Generator[None]:
    """Turn what a broken file raises into a DataError that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        gzipped = starts_with(path, b"\x1f\x8b") and not path.name.endswith(".gz")
        wide = starts_with(path, b"\xff\xfe") or starts_with(path, b"\xfe\xff")
        raise DataError(
            f"{path}: byte {shorten_text(error.object[error.start : error.start + 1])} at offset "
            f"{error.start} of a block is not UTF-8",
            "the file is gzipped but not named .gz" if gzipped else "text files are read as UTF-8",
            "add .gz to its name"
            if gzipped
            else f"convert it: iconv -f {'utf-16' if wide else 'latin1'} -t utf-8 {path.name} > "
            f"utf8-{path.name}",
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: broken gzip: {error}",
            "the end of the data is missing or damaged; a part of it would be trained on silently",
            "fetch the file again, or test it with `gzip -t`",
        ) from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}",
            "the file is damaged, cut short, or not what its name says",
            "write or fetch it again",
        ) from error


def starts_with(path: Path, magic: bytes) -> bool:
    """True for a file whose first bytes are these."""
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def open_text(path: Path, newline: str | None = None) -> IO[str]:
    """Open a text file for reading; one whose name ends in .gz is unpacked, a BOM is left out."""
    if path.name.endswith(".gz"):
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline=newline)
    return path.open(encoding="utf-8-sig", newline=newline)

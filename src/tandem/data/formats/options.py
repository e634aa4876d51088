"""How a source is to be read where its columns alone do not say: what commands have as flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tandem.data.formats.reader import DataRead, read_data
from tandem.data.formats.shaping import parse_columns


@dataclass(frozen=True)
class ReadingOptions:
    """How a source is read; the defaults let its columns decide.

    Attributes:
        columns: names that a format knows = names in the file: prompt=question,chosen=better
        split: which split, where there are several
        format: instead of detecting it
        limit: read only this many rows; 0 for all
    """

    columns: str = ""
    split: str = ""
    format: str = ""
    limit: int = 0

    def mapping(self) -> dict[str, str] | None:
        """Return what a format calls a column -> what the file calls it.

        Raises:
            ConfigError: `columns` spells no mapping.
        """
        return parse_columns(self.columns) or None

    def read(self, source: str | Path, *, columns: Mapping[str, str] | None = None) -> DataRead:
        """Read a source; see `read_data`."""
        return read_data(
            source,
            columns=columns or self.mapping(),
            split=self.split or None,
            limit=self.limit or None,
            format=self.format or None,
        )

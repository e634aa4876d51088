# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Which files of a folder are which split: by their names, as the hub reads them."""

from __future__ import annotations

from pathlib import Path


def find_split_files(folder: Path) -> dict[str, list[Path]]:
    """Return split -> files, for a folder whose files' names decide; else nothing.

    A folder with a dataset card that lists its own files is left to `datasets`.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns

    card = folder / "README.md"
    try:
        if card.is_file() and "configs:" in card.read_text(encoding="utf-8", errors="replace"):
            return {}
        base = str(folder.resolve())
        found = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
    except Exception:  # `datasets` then says itself what it cannot read
        return {}
    return {str(split): [Path(str(file)) for file in files] for split, files in found.items()}

"""Small files that met a new answer: where later damage starts from."""

from __future__ import annotations

import hashlib
from pathlib import Path

LARGEST, MOST = 900, 400
HOME = Path(__file__).parent / "corpus"


class Corpus:
    """Files by the answer that they met, in a folder that grows.

    Args:
        kept: what is committed; it is only read.
        grown: where new files are written; None for nowhere.
    """

    def __init__(self, kept: Path = HOME, grown: Path | None = None) -> None:
        self.grown, self.known = grown, set[str]()
        self.files: list[tuple[str, bytes]] = []
        for folder in (kept, *([grown] if grown else [])):
            for path in sorted(folder.glob("*.*")):
                self._take(path)

    @property
    def contents(self) -> list[bytes]:
        """The files' bytes."""
        return [data for _, data in self.files]

    def offer(self, answer: str, path: Path) -> None:
        """Keep a small file whose answer nobody has met."""
        mark = hashlib.blake2b(answer.encode("utf-8", "replace"), digest_size=6).hexdigest()
        if self.grown is None or mark in self.known or len(self.files) >= MOST:
            return
        if path.stat().st_size <= LARGEST:
            self.grown.mkdir(parents=True, exist_ok=True)
            copy = self.grown / f"{mark}.{path.name.partition('.')[2]}"
            copy.write_bytes(path.read_bytes())
            self._take(copy)

    def _take(self, path: Path) -> None:
        mark, _, ending = path.name.partition(".")
        if mark not in self.known:
            self.known.add(mark)
            self.files.append((ending, path.read_bytes()))

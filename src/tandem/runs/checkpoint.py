"""A handle on a model folder, and the hash of what is in it."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tandem.errors import ModelError
from tandem.runs.weight_files import INDEX, loaded_weights, read_model_json

MODEL_FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
)
READ_SIZE = 1 << 20
REMOVED = "weights-removed.json"
RESULT = "result.json"
"""In a run's folder: the stage of the policy that its method returned."""
"""In a model folder whose weights were deleted: the hash of what it was."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder in Hugging Face's layout, by its path; nothing is loaded.

    >>> model = Checkpoint(Path("models/my-model"), "base")
    >>> str(model)
    'base'

    Attributes:
        path: the folder.
        name: the model's name in tables and in `Completion.author`.
    """

    path: Path
    name: str = ""

    def files(self) -> list[Path]:
        """Return the model's files, sorted; of the weights only those that are loaded.

        Raises:
            ModelError: the folder is missing or holds no model files.
        """
        every = {f for pattern in MODEL_FILES for f in self.path.rglob(pattern)}
        idle = set(self.path.glob("*.safetensors")) - set(loaded_weights(self.path))
        found = sorted(every - idle)
        if not found:
            raise ModelError(
                f"{self.path} holds no model",
                "a checkpoint is a folder with config.json and safetensors weights",
                "give the folder that `save_pretrained` wrote; for a model of the hub, "
                "`hf download ID --local-dir FOLDER` first",
            )
        return found

    @property
    def hash(self) -> str:
        """Hash of the content: weights, configuration, tokenizer; not of the place.

        Raises:
            ModelError: the folder is missing or holds no model files.
        """
        if (marker := self.path / REMOVED).is_file() and not loaded_weights(self.path):
            return str(read_model_json(marker).get("hash", ""))
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files():
            digest.update(f"{file.relative_to(self.path).as_posix()}\0".encode())
            digest.update(file_hash(file).encode())
        return digest.hexdigest()

    def remove_weights(self) -> int:
        """Delete the weights and remember the hash of what was there; return the freed bytes.

        The folder stays equal to what it was, for everything that compares and nothing that loads.

        Raises:
            ModelError: the folder is missing or holds no model files.
        """
        weights = [file for file in self.path.rglob("*.safetensors") if not file.is_symlink()]
        if not weights:
            return 0
        marker = self.path / REMOVED
        marker.write_text(json.dumps({"hash": self.hash}) + "\n", encoding="utf-8")
        freed = sum(file.stat().st_size for file in weights)
        for file in weights:
            file.unlink()
        (self.path / INDEX).unlink(missing_ok=True)
        return freed

    def __str__(self) -> str:
        return self.name or self.path.name


def file_hash(file: Path) -> str:
    """Hash a file's content; read once a process unless its size or time changes."""
    stat = file.stat()
    return _file_hash(file.resolve(), (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=4096)
def _file_hash(file: Path, state: tuple[int, int, int]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while block := stream.read(READ_SIZE):
            digest.update(block)
    return digest.hexdigest()

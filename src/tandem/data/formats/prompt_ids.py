"""Names of prompts: the file's id, or a hash of the prompt; one id names one prompt only."""

from __future__ import annotations

import hashlib
import itertools
import re
from array import array
from dataclasses import dataclass, field

import numpy as np

from tandem.data.chat.transcripts import prompt_key
from tandem.data.formats.compact_map import LOW, CompactMap
from tandem.data.formats.fields import DataRow
from tandem.data.record import Group

ID_COLUMNS = ("id", "prompt_id")
MADE = re.compile(r"[0-9a-f]{16}")
"""A name that was made of a prompt's hash: it is the hash."""


@dataclass
class PromptIds:
    """Gives a name to each row's prompt; repeats get #2, #3, ...

    It remembers 64 bits of every name and of a named prompt, so that millions of rows take little
    memory.

    Attributes:
        repeated_ids: rows whose id an earlier row with another prompt has.
    """

    repeated_ids: int = 0
    _repeated: int = 0
    _names: CompactMap = field(default_factory=CompactMap)
    _prompts: array[int] = field(default_factory=lambda: array("Q"))
    _times: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def repeated_prompts(self) -> int:
        """Rows whose prompt an earlier row has."""
        return self._repeated + len(self._prompts) - len(np.unique(self._prompts))

    def name(self, row: DataRow, group: Group) -> str:
        """Return the name of a row's prompt.

        Raises:
            DataError: the row's id is no Unicode text.
        """
        key = _hash(prompt_key(group.prompt))
        given = next((row.values[c] for c in ID_COLUMNS if row.has(c)), None)
        name = f"{key:016x}" if given is None else row.sound("id", str(given))
        before = self._names.set_default(_number(name), key & LOW)
        if given is not None:
            self._prompts.append(key)
        elif before is not None:
            self._repeated += 1
        if before is not None and before != key & LOW:  # seeds and resumes hang on ids
            self.repeated_ids += 1
            name = f"{name}~{key:016x}"
            before = self._names.set_default(_number(name), key & LOW)
        if before is None:
            return name
        numbered = ((k, f"{name}#{k}") for k in itertools.count(self._times.get(name, 1) + 1))
        self._times[name], again = next(x for x in numbered if _number(x[1]) not in self._names)
        self._names.set_default(_number(again), key & LOW)
        return again


def _number(name: str) -> int:
    return int(name, 16) if MADE.fullmatch(name) else _hash(name)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

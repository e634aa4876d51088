"""Lists and objects that are written as text: as JSON, or as Python prints them.

A table of cells (CSV) has no other way to hold a conversation, and many files hold one so.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from functools import lru_cache
from typing import Any

LONGEST = 1 << 20
"""Characters of a text that is tried as Python; JSON may be longer."""
_OPENING = frozenset("[{ \t\r\n")
_TURNS = re.compile(r"""\s*\[?\s*\{\s*['"](role|from)['"]\s*:""")


class RepeatedKey(ValueError):
    """An object gives a key a second time: one of the two values would be lost."""


def parse_json(text: str) -> Any:
    """Return what a text spells as JSON.

    Raises:
        RepeatedKey: an object has a key twice.
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique_keys)


@lru_cache(maxsize=8)
def parse_structure(text: str) -> Any:
    """Return the list or object that a text spells as JSON, or as Python prints it.

    Raises:
        ValueError: it is neither.

    Example:
        >>> parse_structure("[{'role': 'user', 'content': None}]")
        [{'role': 'user', 'content': None}]
    """
    try:
        return parse_json(text)
    except RepeatedKey:
        raise
    except (ValueError, RecursionError) as error:
        found = _printed_by_python(text.strip())
        if found is None:
            raise ValueError(str(error)) from error
        return found


def open_structure(text: str) -> Any:
    """Return the list or object that a text spells; the text itself where it spells none.

    Example:
        >>> open_structure('["a"]'), open_structure("[a]")
        (['a'], '[a]')
    """
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return parse_structure(text)
    except ValueError:
        return text  # whoever reads it says what is wrong with it


def spells_turns(text: str) -> bool:
    """True for a text that begins as messages do: an object, or a list of them, with a speaker."""
    return text[:1] in _OPENING and _TURNS.match(text) is not None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return table


def _printed_by_python(text: str) -> Any:
    """Return the list or dictionary whose `repr` this is; None for everything else.

    Texts that stand side by side without a comma, as NumPy prints them, would run together: they
    are no `repr`.
    """
    if not text.startswith(("[", "{")) or len(text) > LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            found: Any = ast.literal_eval(text)
        return found if repr(found) == text else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None

"""Flags of every command that reads data, and of those that turn it into tokens.

--columns --split --format --limit              how the file is read
--data.max_length --data.truncation --data.date how its texts become tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tandem.cli.settings import leaf_settings, read_file
from tandem.data.chat.clock import template_date
from tandem.data.chat.encoding_rules import EncodingRules
from tandem.data.formats.options import ReadingOptions

FLAGS = tuple(f.name for f in fields(ReadingOptions))
RULES = tuple(f"data.{f.name}" for f in fields(EncodingRules))


def add_reading_flags(parser: ArgumentParser) -> None:
    """Add the flags that say how a file is read."""
    for s in leaf_settings(ReadingOptions(), ""):
        parser.add_argument(f"--{s.name[1:]}", type=s.hint, default=s.default, help=s.help)


def add_encoding_flags(parser: ArgumentParser) -> None:
    """Add the flags that say how texts become tokens; `--data` alone names the file."""
    for s in leaf_settings(EncodingRules(), "data"):
        dest = s.name.replace("data.", "encoding.", 1)
        parser.add_argument(f"--{s.name}", dest=dest, type=s.hint, default=s.default, help=s.help)


def reading_options(options: Namespace) -> ReadingOptions:
    """Return how the file is read."""
    return ReadingOptions(**{name: options[name] for name in FLAGS})


def encoding_rules(options: Namespace, folder: Path, model: Path) -> EncodingRules:
    """Return how texts become tokens: the date is the flag's, the run folder's, or today's.

    Args:
        options: what was given.
        folder: the run's folder, which keeps its date.
        model: whose chat template may write the date; where it does not, there is none.
    """
    given = {name: options.encoding[name.partition(".")[2]] for name in RULES}
    rules = EncodingRules(**{name.partition(".")[2]: value for name, value in given.items()})
    if not _reads_clock(model):
        return EncodingRules(rules.max_length, rules.truncation)
    kept = folder / "run.toml"
    before = str(read_file(kept).get("data.date", "")) if kept.exists() else ""
    day = rules.date or before or template_date().isoformat()
    return EncodingRules(rules.max_length, rules.truncation, day)


def rules_table(rules: EncodingRules) -> Mapping[str, Any]:
    """Return the rules by the names of their flags."""
    return {name: getattr(rules, name.partition(".")[2]) for name in RULES}


def _reads_clock(model: Path) -> bool:
    from tandem.data.chat.template import ChatTemplate
    from tandem.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(model)
    return bool(tokenizer.chat_template) and ChatTemplate(tokenizer).reads_clock

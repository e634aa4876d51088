"""Frozen config dataclasses as flags and files: one dataclass, read by everybody.

Every field becomes a dotted flag (`--dpo.beta 0.2`). A TOML or YAML file has the same names, and
is read before the flags, so flags win. An unknown name is an error with the nearest known one.
"""

from __future__ import annotations

import json
import re
import tomllib
from argparse import ArgumentError
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

from tandem.cli.other_names import explain_flag
from tandem.errors import ConfigError, nearest_name
from tandem.errors.ranges import Range, check_value, range_of_field
from tandem.methods.configs import shared_parts

Plain = bool | int | float | str | tuple | list | dict | Enum | None


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of a configuration: a dotted name, its type, its default and its meaning."""

    name: str
    hint: Any
    default: Any
    help: str
    range: Range | None = None


def leaf_settings(config: object, prefix: str) -> Iterator[Setting]:
    """Yield the leaves of a dataclass, nested dataclasses included.

    A config that another method shares (`methods.configs.shared_parts`) is left out: it has a table
    of its own, and one set of flags.
    """
    kind = type(config)
    hints, docs = get_type_hints(kind), field_docs(kind)
    for f in fields(cast("Any", config)):
        value, name = getattr(config, f.name), f"{prefix}.{f.name}"
        if f.name in shared_parts(config):
            continue
        if is_dataclass(value):
            yield from leaf_settings(value, name)
        elif isinstance(value, Plain):
            allowed = range_of_field(kind, f.name)
            yield Setting(name, hints[f.name], value, docs.get(f.name, ""), allowed)


def field_docs(kind: type) -> dict[str, str]:
    """Read the `Attributes:` section of a class docstring: field -> one line; bases' first."""
    inherited = {k: text for base in kind.__bases__ for k, text in field_docs(base).items()}
    section = re.split(r"^\s*Attributes:\s*$", kind.__doc__ or "", maxsplit=1, flags=re.M)
    if len(section) < 2:
        return inherited
    body = re.split(r"\n\s*\n", section[1])[0]
    entries = re.findall(r"^\s+(\w+): (.*?)(?=^\s+\w+: |\Z)", body, flags=re.M | re.S)
    return inherited | {name: " ".join(text.split()) for name, text in entries}


def add_settings(parser: ArgumentParser, configs: Mapping[str, object]) -> None:
    """Add a flag for every setting of some configs."""
    for prefix, config in configs.items():
        title = (type(config).__doc__ or "").strip().partition("\n")[0]
        group = parser.add_argument_group(prefix, title)
        for s in leaf_settings(config, prefix):
            allowed = f" [{s.range}]" if s.range is not None else ""
            told = f"{s.help}{allowed}".strip() or None
            group.add_argument(f"--{s.name}", type=s.hint, default=s.default, help=told)


def make_parser(command: str, description: str) -> ArgumentParser:
    """Return an empty parser that raises instead of exiting."""
    return ArgumentParser(
        prog=f"tandem {command}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )


NOT_IN_FILES = ("--config", "--print_config")
"""Options of the command line alone."""


def parse_words(parser: ArgumentParser, words: Sequence[str], *files: Path) -> Namespace:
    """Parse the settings of files, the later over the earlier ones, then flags.

    Raises:
        ConfigError: an unknown name (with the nearest), or a value of the wrong type.
    """
    known = {o for a in parser._actions for o in a.option_strings if o.startswith("--")}
    words = [_spell_source(word, known) for word in words]
    for word in words:
        if word.startswith("--"):
            _check_known(
                word.removeprefix("--").partition("=")[0], known, "the command line", parser
            )
    early: list[str] = []
    for file in files:
        early += _spell_file(parser, file)
    _check_digits([*early, *words])
    try:
        return parser.instantiate(parser.parse_args([*early, *words]))
    except (ArgumentError, ValueError, TypeError, OverflowError, RecursionError) as error:
        if (refused := _range_error(error)) is not None:
            raise refused from error
        raise ConfigError(
            _shorten(_by_flag(" ".join(str(error).split()), parser)),
            "a setting has a type, and often a range",
            f"see `{parser.prog} --help`",
        ) from error


def _spell_source(word: str, known: Collection[str]) -> str:
    """Spell `--reward X` out: a table's own name stands for its `source`, where it has one."""
    name, sign, value = word.partition("=")
    whole = f"{name}.source"
    return f"{whole}{sign}{value}" if name not in known and whole in known else word


def _check_digits(words: Sequence[str]) -> None:
    """Refuse a whole number of more digits than any setting has, before it is read as one."""
    for before, word in zip(["", *words], words, strict=False):
        name, _, value = word.rpartition("=") if "=" in word else (before, "", word)
        if re.fullmatch(r"-?\d{300,}", value):
            raise ConfigError(
                f"{name.removeprefix('--')} = {value[:20]}..., {len(value)} digits",
                "no setting is such a number",
                "write a smaller number",
            )


def _by_flag(text: str, parser: ArgumentParser) -> str:
    """Return an error's text with settings called as they are on the command line."""
    for action in parser._actions:
        flags = [o for o in action.option_strings if o.startswith("--")]
        if flags and action.dest != flags[0][2:].replace("-", "_"):
            text = text.replace(f'"{action.dest}"', f'"{flags[0][2:]}"')
    return text


def _range_error(error: BaseException | None) -> ConfigError | None:
    """Return the refusal of a value that the parser met while it built a dataclass."""
    while error is not None:
        if isinstance(error, ConfigError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _spell_file(parser: ArgumentParser, file: Path) -> list[str]:
    """Return a file's settings as words of the command line."""
    return list(spell_table(parser, read_file(file), str(file)))


def spell_table(parser: ArgumentParser, table: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield a table's settings as words of the command line.

    Raises:
        ConfigError: an unknown name, an option of the command line alone, or a table for a setting
            that is a text.
    """
    actions = {o: a for a in parser._actions if a.nargs != 0 for o in a.option_strings}
    known = {option for option in actions if option not in NOT_IN_FILES}
    for name, value in flatten_table(table, known):
        name = _spell_source(f"--{name}", known).removeprefix("--")
        if f"--{name}" in NOT_IN_FILES:
            raise ConfigError(
                f"`{name}` in {where}",
                "a file holds settings; that it leads to another file would be lost",
                f"give both on the command line: --{name} FIRST --{name} SECOND",
            )
        _check_known(name, known, where, parser)
        action = actions[f"--{name}"]
        hint = getattr(action, "_typehint", None)
        if isinstance(value, Mapping) and {str} <= set(get_args(hint) or [hint]) <= {str, NoneType}:
            raise ConfigError(
                f"{name} = {_shorten(spell_value(value))} in {where}",
                "this setting is a text, and a table stands there",
                f"give {name} as a text, or leave it out",
            )
        append = type(action).__name__ == "_AppendAction"
        for member in value if append and isinstance(value, list) else [value]:
            yield f"--{name}={spell_value(member)}"


def with_parsed_values(config: Any, values: Namespace, name: str = "") -> Any:
    """Return the dataclass with the parsed values in its leaves.

    Args:
        config: the defaults.
        values: what was parsed for it.
        name: what its settings begin with: `sft` of `sft.epochs`.

    Raises:
        ConfigError: a value outside the range that its field declares, by its whole name.
    """
    hints = get_type_hints(type(config), include_extras=True)
    changes: dict[str, Any] = {}
    for f in fields(config):
        if f.name in values:
            old, new = getattr(config, f.name), values[f.name]
            inner = f"{name}.{f.name}".removeprefix(".")
            if is_dataclass(old) and isinstance(new, Namespace):
                new = with_parsed_values(old, new, inner)
            check_value(inner, hints[f.name], new)
            changes[f.name] = new
    return replace(config, **changes)


def with_table_values(config: Any, table: Mapping[str, Any]) -> Any:
    """Return the dataclass with a table's values in its leaves; the rest stays."""
    changes = {
        name: with_table_values(getattr(config, name), value)
        if isinstance(value, Mapping)
        else value
        for name, value in table.items()
    }
    return replace(config, **changes)


def flatten_table(table: Mapping[str, Any], known: set[str], prefix: str = "") -> Iterator[tuple]:
    """Yield (dotted name, value) down to the names that are flags."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and f"--{name}" not in known:
            yield from flatten_table(value, known, f"{name}.")
        else:
            yield name, value


def read_file(path: Path) -> dict[str, Any]:
    """Read a TOML or YAML file.

    Raises:
        ConfigError: it is missing, broken, or neither.
    """
    readers = {".toml": tomllib.loads, ".yaml": _read_yaml, ".yml": _read_yaml}
    if path.suffix not in readers:
        raise ConfigError(
            f"--config {path}",
            f"a configuration is TOML or YAML, and {path.suffix or 'no suffix'} is neither",
            "name the file *.toml or *.yaml",
        )
    try:
        table = readers[path.suffix](path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"--config {path}: {_shorten(' '.join(str(error).split()))}",
            "the file must exist and follow its format",
            "correct the file; every run keeps a valid example in its run.toml",
        ) from error
    if not isinstance(table, dict):
        raise ConfigError(
            f"--config {path} holds {type(table).__name__}, not a table",
            "settings have names",
            "write `seed = 1` or `[dpo]` and `beta = 0.1` below it",
        )
    return table


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which every key of a table is given once, and nothing refers to something else."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.YAMLError(f"line {mark.line + 1} refers to an anchor: write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line} gives `{key.value}` a second time")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _read_yaml(text: str) -> Any:
    return yaml.load(text, _UniqueKeys)


def _shorten(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:397]}..."


def to_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """Spell nested settings as TOML that `read_file` reads back; None is spelled "null"."""
    plain = {k: v for k, v in table.items() if not isinstance(v, Mapping)}
    lines = [f"{_toml_key(key)} = {_toml(value)}" for key, value in plain.items()]
    text = "".join(f"{line}\n" for line in lines)
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner = to_toml(value, f"{prefix}{key}.")
            head = (
                f"[{prefix}{key}]\n"
                if any(not isinstance(v, Mapping) for v in value.values())
                else ""
            )
            text += f"\n{head}{inner}" if head else inner
    return text


def nested_tables(config: object) -> dict[str, Any]:
    """Return a dataclass as nested tables of its settings."""
    table: dict[str, Any] = {}
    for s in leaf_settings(config, ""):
        *path, last = s.name.removeprefix(".").split(".")
        place = table
        for key in path:
            place = place.setdefault(key, {})
        place[last] = s.default
    return table


def _check_known(name: str, known: set[str], where: str, parser: ArgumentParser) -> None:
    options = {option.removeprefix("--") for option in known}
    if name in options or name in (nested := set(_nested_names(parser))):
        return
    method = str(parser.prog).rpartition(" ")[2]
    ours = explain_flag(name, options, method)
    near = "" if ours else nearest_name(name, options | nested)
    raise ConfigError(
        f"unknown setting `{name}` in {where}.{near}",
        "a setting that nobody reads would be lost without a word",
        ours or "correct its name or leave it out; --help lists all of them",
    )


def _nested_names(parser: ArgumentParser) -> Iterator[str]:
    """Yield the settings below one that is a table or nothing: `machine.lora.rank`."""
    for action in parser._actions:
        hint = None if action.nargs == 0 else getattr(action, "_typehint", None)
        for kind in filter(is_dataclass, get_args(hint) or [hint]):
            for option in action.option_strings:
                yield from (f"{option.removeprefix('--')}.{f.name}" for f in fields(kind))


def spell_value(value: Any) -> str:
    """Spell a value as the command line does."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _toml(value: Any) -> str:
    if value is None:
        return '"null"'
    if isinstance(value, Enum):
        return json.dumps(value.name)
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(v) for v in value)}]"
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(f"{f.name} = {_toml(getattr(value, f.name))}" for f in fields(value))
        return f"{{{inner}}}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)

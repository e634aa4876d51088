"""Read the package's source as text: a symbol's lines, a config's fields. Nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ERRORS = ("ConfigError", "DataError", "ModelError", "JudgeError", "EngineError", "RunError")
FINER = {"MissingColumnError": "DataError"}
"""A class of one error -> the class under which people look for it."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function or a class in its file.

    Attributes:
        path: the file, from the root of the repository.
        first: its line there, counted from 1.
        body: its code without decorators and docstring.
    """

    path: str
    first: int
    body: str


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting: its name, its default as it is written, its meaning."""

    name: str
    default: str
    meaning: str


def symbol(name: str) -> Symbol:
    """Find `package.module:qualified.name`.

    Raises:
        LookupError: the module has no such function or class.
    """
    module, _, inside = name.partition(":")
    path = file_of(module)
    node: ast.AST = _tree(path)
    for part in inside.split("."):
        node = _child(node, part, name)
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    lines = path.read_text(encoding="utf-8").splitlines()
    hidden = _docstring_lines(node)
    kept = [lines[k - 1] for k in range(node.lineno, (node.end_lineno or 0) + 1) if k not in hidden]
    indent = len(lines[node.lineno - 1]) - len(lines[node.lineno - 1].lstrip())
    body = "\n".join(line[indent:] for line in kept)
    return Symbol(str(path.relative_to(ROOT)), node.lineno, body)


def docstring(module: str) -> str:
    """Return what a module says of itself."""
    return ast.get_docstring(_tree(file_of(module))) or ""


def opening(module: str, config: str) -> str:
    """Return the first line of a class's docstring."""
    node = _child(_tree(file_of(module)), config, f"{module}:{config}")
    assert isinstance(node, ast.ClassDef)
    return (ast.get_docstring(node) or "").partition("\n")[0]


def knobs(module: str, config: str) -> Iterator[Knob]:
    """Yield the settings of a config dataclass, in order, those that it inherits first.

    One that it gives another default stays where its base has it, as in `dataclasses.fields`.
    """
    yield from {knob.name: knob for knob in _inherited_first(module, config)}.values()


def _inherited_first(module: str, config: str) -> Iterator[Knob]:
    node = _child(_tree(file_of(module)), config, f"{module}:{config}")
    assert isinstance(node, ast.ClassDef)
    for base in node.bases:
        if isinstance(base, ast.Name):
            yield from _inherited_first(_home(module, base.id), base.id)
    said = _attributes(ast.get_docstring(node) or "")
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value:
            if ast.unparse(line.annotation).startswith("ClassVar"):
                continue
            name = line.target.id
            yield Knob(name, _default(line.value), said.get(name, ""))


@dataclass(frozen=True, slots=True)
class Told:
    """An error's three parts, with `...` where a value stands."""

    what: str
    why: str
    do: str


def errors() -> dict[str, list[Told]]:
    """Every error of `tandem.errors` that is made somewhere in the package, by class."""
    found: dict[str, set[Told]] = {kind: set() for kind in ERRORS}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(_tree(path)):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and (kind := FINER.get(name, name)) in found:
                parts = [spoken(a) for a in node.args]
                if len(parts) == 3 and all(parts):
                    found[kind].add(Told(*parts))
    return {kind: list(told) for kind, told in found.items()}


def spoken(node: ast.expr) -> str:
    """Return a string as written, each value in it as `...`; empty where it is computed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return " ".join(node.value.split())
    if isinstance(node, ast.JoinedStr):
        parts = [p.value if isinstance(p, ast.Constant) else "..." for p in node.values]
        return " ".join("".join(map(str, parts)).replace("`", "'").split())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return spoken(node.left) + (spoken(node.right) or "...") if spoken(node.left) else ""
    return ""


def file_of(module: str) -> Path:
    """Return a module's file."""
    path = ROOT / "src" / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _home(module: str, name: str) -> str:
    """Return the module from which a module has a class: itself, or the one it imports."""
    for node in _tree(file_of(module)).body:
        if isinstance(node, ast.ImportFrom) and name in {a.name for a in node.names}:
            return node.module or module
    return module


def _child(node: ast.AST, name: str, asked: str) -> ast.AST:
    for child in getattr(node, "body", []):
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name == name:
            return child
    raise LookupError(f"{asked}: there is no {name}")


def _docstring_lines(node: ast.FunctionDef | ast.ClassDef) -> range:
    first = node.body[0]
    if ast.get_docstring(node) is None:
        return range(0)
    return range(first.lineno, (first.end_lineno or 0) + 1)


def _attributes(text: str) -> dict[str, str]:
    section = re.split(r"^\s*Attributes:\s*$", text, maxsplit=1, flags=re.M)
    if len(section) < 2:
        return {}
    found = re.findall(r"^\s+(\w+): (.*?)(?=^\s+\w+: |\Z)", section[1], flags=re.M | re.S)
    return {name: " ".join(said.split()) for name, said in found}


def _default(value: ast.expr) -> str:
    """Spell a default: a field's factory or its default, else the expression."""
    if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "field":
        given = {k.arg: k.value for k in value.keywords}
        if "default" in given:
            return ast.unparse(given["default"])
        factory = given["default_factory"]
        if isinstance(factory, ast.Lambda):
            return ast.unparse(factory.body)
        return f"{ast.unparse(factory)}()"
    return ast.unparse(value)

"""Signatures of everything that `from tandem import ...` gives are those in `public_api.json`.

A changed line is a change for every user. Where it is meant,

    python tests/contract/test_public_api.py

writes the file anew; commit it with the change, say in CHANGELOG.md what users have to do, and
where a stage's parameter got another name, add the former one to `RENAMED` in
`src/tandem/runs/names.py`, so that run folders stay readable.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tandem
from tandem.methods import METHODS, load_method

FILE = Path(__file__).with_name("public_api.json")


def spelled(signature: inspect.Signature) -> str:
    """Return a signature as text without addresses in memory."""
    return re.sub(r"<([\w.]+) object at 0x\w+>", r"\1()", str(signature))


def described(thing: Any) -> Any:
    """Return JSON of what a caller of a function, a class or a package relies on."""
    if isinstance(thing, ModuleType):
        return sorted(thing.__all__)
    if not inspect.isclass(thing):
        return spelled(inspect.signature(thing))
    fields = {f.name for f in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else ()
    own: dict[str, Any] = {"": spelled(inspect.signature(thing))}
    for name, member in vars(thing).items():
        if name.startswith("_") or name in fields:
            continue
        if isinstance(member, classmethod | staticmethod):
            member = member.__func__
        own[name] = spelled(inspect.signature(member)) if callable(member) else "property"
    return own


def public_api() -> dict[str, Any]:
    """Return what is exported: the package's names, and each method's config and recipe."""
    found = {name: described(getattr(tandem, name)) for name in tandem.__all__}
    for name in METHODS:
        method = load_method(name)
        found[f"methods.{name}.{method.config.__name__}"] = described(method.config)
        found[f"methods.{name}.recipe"] = described(method.recipe)
    return found


def as_text(api: dict[str, Any]) -> str:
    return json.dumps(api, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_signatures_are_as_committed():
    kept, now = FILE.read_text(encoding="utf-8"), as_text(public_api())
    changes = [
        line
        for line in difflib.unified_diff(kept.splitlines(), now.splitlines(), n=0, lineterm="")
        if not line.startswith(("---", "+++", "@@"))
    ]
    assert not changes, "\n".join([*changes, "", str(__doc__)])


@pytest.mark.parametrize("name", tandem.__all__)
def test_a_public_name_is_the_one_of_its_module(name: str):
    found = getattr(tandem, name)
    assert found.__name__.rpartition(".")[2] == name
    assert (found.__name__ if isinstance(found, ModuleType) else found.__module__).startswith(
        "tandem."
    )
    assert name in dir(tandem)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Runn'"):
        tandem.Runn  # noqa: B018


def test_every_error_is_exported():
    kinds = [k for k in vars(tandem.errors).values() if inspect.isclass(k)]
    errors = {k.__name__ for k in kinds if issubclass(k, Exception)}
    assert errors <= set(tandem.__all__)


NEED_TORCH = (
    "encode", "sample", "judge", "evaluate", "BestOf", "RewardModel", "PreferenceModel",
    "LocalModel", "find_model", "objectives",
)  # fmt: skip


def test_only_names_that_need_torch_load_it():
    light = [name for name in tandem.__all__ if name not in NEED_TORCH]
    code = (
        f"import sys, tandem; [getattr(tandem, n) for n in {light}]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


if __name__ == "__main__":
    FILE.write_text(as_text(public_api()), encoding="utf-8")

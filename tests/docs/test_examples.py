"""The examples in docstrings of what a user holds are run, and none is missing.

Besides what an example imports itself, it sees its module's names and all of `tandem.__all__`.
An example that needs a trained model is marked `# doctest: +SKIP`.
"""

from __future__ import annotations

import doctest
import inspect
import sys
from pathlib import Path

import pytest

import tandem
from tandem.methods import METHODS, load_method

EXPORTS = {name: getattr(tandem, name) for name in tandem.__all__}
CLASSES = {
    **{n: x for n, x in EXPORTS.items() if inspect.isclass(x) and not issubclass(x, Exception)},
    **{row.config: load_method(name).config for name, row in METHODS.items()},
}
FUNCTIONS = {n: x for n, x in EXPORTS.items() if inspect.isfunction(x)}
FINDER = doctest.DocTestFinder(recurse=False)


def examples(name: str, thing: object) -> list[doctest.Example]:
    return [e for test in FINDER.find(thing, name) for e in test.examples]


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_that_a_user_holds_has_an_example(name: str):
    ran = [e for e in examples(name, CLASSES[name]) if doctest.SKIP not in e.options]
    assert ran, f"give {name} an example (`>>>`) in its docstring"


@pytest.mark.parametrize("name", {**CLASSES, **FUNCTIONS})
def test_examples_do_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    thing = {**CLASSES, **FUNCTIONS}[name]
    seen = {**EXPORTS, **vars(sys.modules[thing.__module__]), "Path": Path}
    for test in FINDER.find(thing, name, globs=seen):
        report: list[str] = []
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
        assert not report, "".join(report)


@pytest.mark.parametrize("name", tandem.__all__)
def test_an_exported_name_has_a_sentence(name: str):
    first = (inspect.getdoc(EXPORTS[name]) or "").partition("\n")[0]
    assert first.endswith((".", ":")), first
    assert len(first.split()) >= 4, first

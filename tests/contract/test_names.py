"""Names say what things are, and say it once: the rules of CONTRIBUTING.md that a test can check.

Lists here may only shrink. A name that is added has to be better than the rule.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src" / "tandem"
FILES = sorted(p for p in ROOT.rglob("*.py") if "versions" not in p.parts)  # Alembic names those
BESIDE = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}

VERBS = {"encode", "sample", "judge", "select", "fit", "evaluate"}
METHOD_PARTS = {"fit", "recipe", "main"}
"""What every method, or every script, has under the same name."""
PURE = ("objectives", "operators", "statistics")
"""Rooms whose functions are losses, operators and named statistics: the field's own words."""
ONE_WORD = {
    "models.tokenise": {"tokenise"},
    "runs.identity": {"fingerprint"},
    "stages.combining": {"merge", "mix"},
    "stages.judging": {"logprobs"},
    "stages.revise": {"revise"},
    "training.loop": {"train"},
}  # fmt: skip
"""One-word public functions that are neither verbs, losses, operators nor named statistics."""

PARTICIPLES = set(
    "added aligned allowed asked averaged awaited balanced broken built called cached chosen "
    "clipped closed clustered compared counted cut decoded described done drawn encoded examined "
    "expected filled fitted found frozen given heard held hinted hidden invented joined judged "
    "kept known labelled laid learned left listed loaded locked lost made marked masked measured "
    "merged met mixed moved named narrowed numbered opened ordered packed padded paid paired "
    "planned preferred put ranked rated read reduced relearned resolved restored resumed returned "
    "revised said sampled saved scaled scored sealed seen selected sent shifted shown shuffled "
    "smoothed solved sorted spelled split stacked started stated stopped stored summed taken "
    "tilted timed told tokenised trained tried trimmed turned unpaired used validated wanted "
    "watched weighted whole wrapped written".split()
)
VERB_TOO = {"cut", "put", "read", "split"}
"""Participles that are verbs as well: fine for a method, `Groups.read`."""

SAME_MODULE = {
    "reward": {"methods.reward", "objectives.reward"},
    "multiview": {"objectives.multiview", "training.multiview"},
}  # fmt: skip
"""Modules of one name in two rooms: a method and its loss; RLP's losses and what feeds them."""


def module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def public(file: Path) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Yield a module's public functions and classes."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


FUNCTIONS = [
    (module(f), n.name) for f in FILES for n in public(f) if isinstance(n, ast.FunctionDef)
]


def methods() -> Iterator[tuple[str, str, str]]:
    """Yield module, class and name of every public method that is called, not read."""
    for file in FILES:
        for kind in (n for n in public(file) if isinstance(n, ast.ClassDef)):
            for node in kind.body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    marks = {ast.unparse(d) for d in node.decorator_list}
                    if not any("property" in m or m.endswith("setter") for m in marks):
                        yield module(file), kind.name, node.name


def test_a_public_name_is_defined_once():
    homes = defaultdict(list)
    for file in FILES:
        for node in public(file):
            homes[node.name].append(module(file))
    twice = {n: where for n, where in homes.items() if len(where) > 1 and n not in METHOD_PARTS}
    assert not twice


def test_one_word_is_for_verbs_losses_operators_and_statistics(capsys: pytest.CaptureFixture[str]):
    others = [
        (where, name)
        for where, name in FUNCTIONS
        if where.partition(".")[0] not in PURE and name not in VERBS | METHOD_PARTS
    ]
    single = defaultdict(set)
    for where, name in others:
        if "_" not in name:
            single[where].add(name)
    share = sum(map(len, single.values())) / len(others)
    every = sum("_" not in name for _, name in FUNCTIONS) / len(FUNCTIONS)
    with capsys.disabled():
        print(f"\none-word public functions: {share:.1%} of {len(others)}; {every:.1%} of all")
    assert share <= 0.2
    assert dict(single) == ONE_WORD, "name a new function verb + object, and remove those that went"


def test_no_function_or_method_is_a_lone_participle():
    found = [f"{where}.{name}" for where, name in FUNCTIONS if name in PARTICIPLES]
    found += [
        f"{where}.{kind}.{name}"
        for where, kind, name in methods()
        if name in PARTICIPLES - VERB_TOO
    ]
    assert [x for x in found if x != "objectives.imitation.weighted"] == []  # a loss


def test_the_top_of_the_package_can_be_read_at_a_glance():
    entries = {p.name for p in ROOT.iterdir()} - BESIDE
    assert len(entries) <= 24, sorted(entries)


def test_no_module_is_named_like_one_of_another_room():
    """`cli` names commands after what they command, and tasks are built alike: both stand apart."""
    rooms = {p.name for p in ROOT.iterdir() if p.is_dir()}
    homes = defaultdict(set)
    for file in FILES:
        apart = file.parent.name == "cli" or "tasks" in file.parts
        if file.stem != "__init__" and not apart:
            homes[file.stem].add(module(file))
    assert not [n for n in homes if n in rooms and "." in next(iter(homes[n]))]
    twice = {n: where for n, where in homes.items() if len(where) > 1}
    assert twice == SAME_MODULE

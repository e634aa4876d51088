"""Any configuration that can be written down reads back as itself."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tandem.cli import settings
from tandem.runs.artifacts import load_artifact, store_artifact
from tandem.runs.identity import describe_value, fingerprint
from tandem.runs.names import record_as

FLOATS = st.floats(allow_nan=False)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)


@record_as("tests.Inner")
@dataclass(frozen=True)
class Inner:
    weights: tuple[float, ...] = (1.0,)
    note: str = ""


@record_as("tests.Outer")
@dataclass(frozen=True)
class Outer:
    size: int = 1
    share: float | None = 0.5
    on: bool = False
    inner: Inner = Inner()


INNERS = st.builds(Inner, st.lists(FINITE, max_size=4).map(tuple), WORDS)
OUTERS = st.builds(Outer, st.integers(), st.none() | FINITE, st.booleans(), INNERS)


@given(OUTERS)
def test_toml_reads_back(config):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.toml"
        path.write_text(settings.to_toml({"c": settings.nested_tables(config)}), encoding="utf-8")
        parser = settings.make_parser("x", "x")
        settings.add_settings(parser, {"c": Outer()})
        assert (
            settings.with_parsed_values(Outer(), settings.parse_words(parser, [], path).c) == config
        )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | WORDS | OUTERS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(WORDS.map(lambda w: f"k{w}"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_values_read_back(value):
    with tempfile.TemporaryDirectory() as folder:
        back = load_artifact(store_artifact(value, Path(folder)), Path(folder))
    assert back == value
    assert fingerprint(describe_value(back)) == fingerprint(describe_value(value))


@given(OUTERS, st.sampled_from(["size", "share", "on"]))
def test_changing_a_field_changes_the_fingerprint(config, name):
    changed = {"size": config.size + 1, "share": math.pi, "on": not config.on}[name]
    other = replace(config, **{name: changed})
    if other != config:
        assert fingerprint(describe_value(other)) != fingerprint(describe_value(config))

"""Names of policies stand in tables as they are, and in stages as folders."""

from __future__ import annotations

import importlib
import inspect

import pytest

from tandem.methods import METHODS
from tandem.runs.names import folder_name
from tandem.runs.run import STAGE

MODULES = [importlib.import_module(f"tandem.methods.{method}") for method in METHODS]
NAMED = {
    module.__name__: default
    for module in MODULES
    if isinstance(default := getattr(inspect.signature(
        getattr(module, "fit", lambda: None)).parameters.get("name"), "default", None), str)
}  # fmt: skip


@pytest.mark.parametrize("name", [*NAMED.values(), "best-of-16", "base temperature=0.7", "π"])
def test_a_policy_of_any_name_can_be_sampled_in_a_stage(name: str):
    assert STAGE.fullmatch(f"00-answers-{folder_name(name)}")


def test_what_was_recorded_before_keeps_its_name():
    for name in ("SFT", "DPO", "best-of-n", "rlp-uml-spg-all", "sft-sample-rank"):
        assert folder_name(name) == name.lower()


def test_methods_with_a_name_of_two_words_are_among_them():
    assert any(" " in name for name in NAMED.values())

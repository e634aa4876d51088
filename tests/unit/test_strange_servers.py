"""Servers that answer oddly, and what is sent to whom."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from tandem.cli.judge_choice import add_judge_flags, open_judge_choice
from tandem.engines.language_models.openai import Server
from tandem.engines.language_models.response_cache import ResponseCache, request_key
from tandem.judges.cluster_judge import open_on_cluster
from tandem.judges.ensemble import Ensemble
from tandem.judges.llm import Rater
from tandem.judges.reward_model import RewardModel
from tandem.machine import Machine
from tandem.runs.atomic_files import finite_json
from tandem.runs.checkpoint import Checkpoint


@pytest.mark.parametrize("usage", [12, "n/a", {"prompt_tokens": "n/a"}, {"prompt_tokens": -3}, []])
def test_an_answer_is_kept_whatever_it_says_of_its_cost(usage: object, tmp_path: Path):
    cache = ResponseCache(tmp_path / "answers.sqlite")
    asked = {"text": "half a character: \ud800"}
    key = request_key("http://x", asked)
    cache.put(key, asked, {"scores": [1.0], "usage": usage, "text": "\ud800"})
    assert '"scores": [1.0]' in (cache.get(key) or "")
    cache.close()


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["--judge_kind", "classify"], None),
        (["--judge_kind", "preferences"], None),
        (["--judge_kind", "rewards", "--judge_key", "MY_KEY"], "MY_KEY"),
    ],
)
def test_a_key_of_one_house_is_not_sent_to_another(
    words: list[str], sent: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("MY_KEY", "mine")
    parser = ArgumentParser()
    add_judge_flags(parser)
    judge = open_judge_choice(parser.parse_args(["--judge", "https://rm.example.com/x", *words]))
    assert judge.server.key == sent  # type: ignore[attr-defined]
    for url, key in (
        ("https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("https://api.openai.com.example.com/v1", None),
        ("https://x/v1", None),
    ):
        chat = ["--judge", url, "--judge_model", "m", "--judge_kind", "rating"]
        assert open_judge_choice(parser.parse_args(chat)).lm.key == key  # type: ignore[attr-defined]


@pytest.mark.parametrize(("key", "shown"), [("none", "There is none."), ("sk-0123456789", "***")])
def test_a_placeholder_for_a_key_is_a_word(key: str, shown: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", key)
    session = Server("m", "http://127.0.0.1:9/v1", "MY_KEY").open(Machine())
    said = "There is none." if key == "none" else key
    assert session._without_long_key(said) == shown  # type: ignore[attr-defined]


def test_a_judge_that_also_asks_a_language_model_stays_here(tmp_path: Path):
    """Its answers are kept here, and other machines have neither its key nor its files."""
    members = (RewardModel(Checkpoint(tmp_path, "r")), Rater(Server("m", "http://x/v1", None)))
    assert open_on_cluster(Ensemble(members), Machine(engine="ray")) is None


def test_only_numbers_that_are_not_finite_become_null():
    told = finite_json({"hardest": ["drop NaN rows"], "kappa": math.nan, "more": (math.inf, 1)})
    assert told == {"hardest": ["drop NaN rows"], "kappa": None, "more": [None, 1]}

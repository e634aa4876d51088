"""Which reward a method learns from: what is taken, what is refused, and what is written down."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from tandem import cli
from tandem.cli import run as run_command
from tandem.cli.reward_choice import (
    OF_SERVERS,
    check_reward_choice,
    open_reward_choice,
    reward_table,
)
from tandem.cli.settings import parse_words, to_toml
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import ConfigError, DataError, TandemError
from tandem.judges.answer_key import AnswerKey, has_truth
from tandem.judges.remote_reward import RemoteReward
from tandem.methods import METHODS, REWARDED, load_method
from tandem.methods.rso import RSOConfig
from tandem.pipeline.labels import check_labels
from tandem.pipeline.stage_costs import plan_stages
from tandem.tasks import Sizes, Task
from tandem.tasks.gsm8k import GSM8K_WORDING
from tandem.tasks.load import load_task
from tandem.tasks.micro import Micro


def given(source: str, **more: str) -> Namespace:
    return Namespace(reward=Namespace(source=source, **{**OF_SERVERS, **more}))


def questions(*, keys: bool = True) -> Task:
    """Questions that nobody compared; with keys a program knows which answers are right."""
    meta = {"answer": "4"} if keys else {}
    groups = Groups.of([Group(Prompt("q", "2 + 2?", meta=meta), (Completion("#### 4"),))])
    base, truth = load_task("micro", SMALL).base, AnswerKey(GSM8K_WORDING.read)
    return Task(
        "sums", base, groups, None, None, None, None, groups.prompts(), groups.prompts(),
        truth=truth,
    )  # fmt: skip


SMALL = Sizes(demonstrations=5, pairs=5, held_out=5, prompts=5, evaluation=5)


def test_methods_that_learn_from_a_reward_are_those_whose_recipe_names_one():
    named = [
        name
        for name in METHODS
        if "r_phi" in inspect.signature(load_method(name).recipe).parameters
    ]
    assert sorted(REWARDED) == sorted(named)


@pytest.mark.parametrize(
    ("method", "cfg", "options", "words"),
    [
        ("dpo", None, given("truth"), "--reward truth with dpo"),
        ("rlp", None, given("truth"), "--reward truth with rlp"),
        ("rso", RSOConfig(), given("truth"), "rso.ranker = preference"),
        ("rso", RSOConfig(source="direct", ranker="reward"), given("truth"), "direct"),
        ("grpo", None, given("truth", key="K"), "--reward.key with --reward truth"),
        ("grpo", None, given("fitted", route="score"), "--reward.route with --reward fitted"),
        ("grpo", None, given("nowhere"), "no model nowhere"),
        ("grpo", None, given("http://u:pw@h/x"), "holds a user or a password"),
        ("grpo", None, given("http://h/x", key="NO_SUCH_KEY"), "NO_SUCH_KEY is not set"),
        ("grpo", None, given("http://h/x", key="sk-canary"), "that the key is in is not set"),
        ("grpo", None, given("http://h/x", tokenizer="t"), "with a tokenizer"),
        ("grpo", None, given(str(Micro().model())), "lacks `score.weight`"),
    ],
)
def test_a_reward_that_cannot_be_is_refused(method: str, cfg: Any, options: Any, words: str):
    def chosen() -> None:
        check_reward_choice(options, load_method(method), cfg)
        open_reward_choice(options, questions())

    with pytest.raises(TandemError) as error:
        chosen()
    assert words in error.value.what
    assert "canary" not in str(error.value)
    assert "pw" not in str(error.value)


def test_the_truth_is_an_answer_key_of_the_prompts_or_there_is_none():
    task = questions()
    assert open_reward_choice(given("truth"), task) is task.truth
    without = questions(keys=False)
    assert not has_truth(without.truth, without.prompts)
    with pytest.raises(ConfigError, match="nobody knows the truth about answers to sums"):
        open_reward_choice(given("truth"), without)


def test_a_server_is_asked_on_its_route():
    options = given("http://localhost:9/score", route="score", model="rm")
    judge = open_reward_choice(options, questions())
    assert isinstance(judge, RemoteReward)
    assert (judge.server.url, judge.route, judge.name) == (options.reward.source, "score", "rm")
    assert reward_table(options) == {"source": options.reward.source, "route": "score",
                                     "model": "rm"}  # fmt: skip


def test_a_file_names_the_reward_as_a_flag_does(tmp_path: Path):
    """`reward = "truth"`, `[reward] source`, and the run.toml that a run leaves: one setting."""
    configs = run_command.default_configs(load_method("grpo"))
    parser = run_command.make_run_parser("grpo", configs)
    flag = parse_words(parser, ["--reward", "truth", "--reward.epochs", "2"])
    left = {"reward": {**reward_table(flag), "epochs": 2}}
    for k, text in enumerate(
        ['reward = "truth"', '[reward]\nsource = "truth"\nepochs = 2', to_toml(left)]
    ):
        file = tmp_path / f"{k}.toml"
        file.write_text(text + "\n")
        read = parse_words(parser, [], file)
        assert reward_table(read) == {"source": "truth"}
        assert read.reward.epochs == (1 if k == 0 else 2)
    assert reward_table(parse_words(parser, ["--reward=fitted"])) == {}


def test_no_comparison_is_asked_for_where_a_reward_is_given():
    grpo, task = load_method("grpo"), questions()
    with pytest.raises(DataError) as error:
        check_labels(grpo, task)
    assert "--reward truth" in error.value.do
    check_labels(grpo, task, given_reward=True)


@pytest.mark.parametrize("evaluation", ["quick", "full"])
def test_a_plan_counts_no_reward_that_was_given(evaluation: str):
    grpo, task = load_method("grpo"), load_task("micro", SMALL)
    configs = run_command.default_configs(grpo)
    names = {
        is_given: [
            s.name
            for s in plan_stages(grpo, task, configs, "sft", evaluation, given_reward=is_given)
        ]
        for is_given in (False, True)
    }
    gone = {"preferences", "reward"} | ({"its rewards"} if evaluation == "full" else set())
    assert set(names[False]) - set(names[True]) == gone


def test_the_command_refuses_before_anything_is_made(tmp_path: Path, capsys):
    out = tmp_path / "out"
    words = ["run", "dpo", "--task", "micro", "--reward", "truth", "--out", str(out)]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "--reward truth with dpo" in said
    assert "why:" in said
    assert "do:" in said
    assert not out.exists()
